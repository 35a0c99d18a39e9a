package kvstore

import (
	"fmt"
	"log/slog"
)

// raftLogger gives Raft's log to slog. With hundreds of regions most of it is
// noise, so nothing of it is above debug but what is wrong.
type raftLogger struct{ log *slog.Logger }

func (l raftLogger) Debug(...any)            {}
func (l raftLogger) Debugf(string, ...any)   {}
func (l raftLogger) Info(...any)             {}
func (l raftLogger) Infof(string, ...any)    {}
func (l raftLogger) Warning(...any)          {}
func (l raftLogger) Warningf(string, ...any) {}

func (l raftLogger) Error(v ...any) { l.log.Debug("raft: " + fmt.Sprint(v...)) }
func (l raftLogger) Errorf(format string, v ...any) {
	l.log.Debug("raft: " + fmt.Sprintf(format, v...))
}

// Raft is in a state that can't be: the process must not go on.
func (l raftLogger) Fatal(v ...any)                 { panic("raft: " + fmt.Sprint(v...)) }
func (l raftLogger) Fatalf(format string, v ...any) { panic("raft: " + fmt.Sprintf(format, v...)) }
func (l raftLogger) Panic(v ...any)                 { panic("raft: " + fmt.Sprint(v...)) }
func (l raftLogger) Panicf(format string, v ...any) { panic("raft: " + fmt.Sprintf(format, v...)) }

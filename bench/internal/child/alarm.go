package child

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// alarm has a goroutine sleep by the kernel's clock, to some microseconds: time.Sleep
// of less than a millisecond takes a whole one while the process has nothing else
// to do. It sleeps as one does that waits for a socket, so that other goroutines
// have its processor; in a blocking system call it would keep that, for up to
// 10 ms if all do so.
type alarm struct {
	fd   int
	file *os.File // of fd, which Fd would make blocking
}

func newAlarm() (*alarm, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("child: timerfd: %w", err)
	}
	return &alarm{fd: fd, file: os.NewFile(uintptr(fd), "timerfd")}, nil
}

// sleep returns after d, or at once if d is not above zero.
func (a *alarm) sleep(d time.Duration) {
	if d <= 0 {
		return
	}
	spec := unix.ItimerSpec{Value: unix.NsecToTimespec(d.Nanoseconds())}
	var expired [8]byte
	if err := unix.TimerfdSettime(a.fd, 0, &spec, nil); err != nil {
		time.Sleep(d)
	} else if _, err := a.file.Read(expired[:]); err != nil {
		time.Sleep(d)
	}
}

// Close implements io.Closer.
func (a *alarm) Close() error { return a.file.Close() }

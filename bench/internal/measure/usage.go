package measure

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Usage is what a process has used since it began, and the memory that it has now.
type Usage struct {
	CPU     time.Duration // user and system
	Mallocs uint64
	RSS     uint64
	Go      uint64 // the heap's and the stacks' memory that is in use
}

// Now reads the usage of this process. It stops the world for a moment.
func Now() (Usage, error) {
	var times syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &times); err != nil {
		return Usage{}, fmt.Errorf("measure: getrusage: %w", err)
	}
	var memory runtime.MemStats
	runtime.ReadMemStats(&memory)
	resident, err := rss()
	if err != nil {
		return Usage{}, err
	}
	return Usage{
		CPU:     time.Duration(times.Utime.Nano() + times.Stime.Nano()),
		Mallocs: memory.Mallocs,
		RSS:     resident,
		Go:      memory.HeapInuse + memory.StackInuse,
	}, nil
}

// Settled is Now after all garbage is gone.
func Settled() (Usage, error) {
	for range 3 { // pools let go of what they have in two
		runtime.GC()
	}
	debug.FreeOSMemory()
	return Now()
}

func rss() (uint64, error) {
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0, fmt.Errorf("measure: resident memory: %w", err)
	}
	fields := strings.Fields(string(text))
	if len(fields) < 2 {
		return 0, fmt.Errorf("measure: resident memory: /proc/self/statm says %q", text)
	}
	pages, err := strconv.ParseUint(fields[1], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("measure: resident memory: %w", err)
	}
	return pages * uint64(os.Getpagesize()), nil
}

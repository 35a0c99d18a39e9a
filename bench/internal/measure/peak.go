package measure

import (
	"fmt"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
)

// ResetPeak makes this process's resident memory of now, garbage gone, the peak,
// and returns it.
func ResetPeak() (uint64, error) {
	debug.FreeOSMemory()
	if err := os.WriteFile("/proc/self/clear_refs", []byte("5"), 0); err != nil {
		return 0, fmt.Errorf("measure: peak memory: %w", err)
	}
	return rss()
}

// Peak returns the most memory that was resident since ResetPeak.
func Peak() (uint64, error) {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, fmt.Errorf("measure: peak memory: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		rest, ok := strings.CutPrefix(line, "VmHWM:")
		if !ok {
			continue
		}
		kib, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("measure: peak memory: %w", err)
		}
		return kib << 10, nil
	}
	return 0, fmt.Errorf("measure: /proc/self/status has no VmHWM")
}

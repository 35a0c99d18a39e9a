package snapshot

import (
	"os"
	"syscall"
)

// startWriteback has the kernel begin to write those bytes to disk. It is a hint:
// what counts is the sync at the end, which then has less to do.
func startWriteback(file *os.File, offset, n int64) {
	const syncFileRangeWrite = 2
	_ = syscall.SyncFileRange(int(file.Fd()), offset, n, syncFileRangeWrite)
}

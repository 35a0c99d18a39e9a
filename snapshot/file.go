package snapshot

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// temporary is what the name of an unfinished file ends in.
const temporary = ".tmp"

// File is a file that appears under its name only when it is complete: until
// Commit it has another name, which ends in ".tmp". A host may use it to make the
// snapshots that it sends, too. It is not for concurrent use.
type File struct {
	path             string
	file             *os.File
	written, started int64 // started is up to where write-back was started
}

// writebackStep is how much is written between two starts of write-back. A disk
// that begins while data still comes is done sooner, and doesn't hold up others
// by a GiB at once.
const writebackStep = 8 << 20

// CreateFile begins a file. The folder must exist.
func CreateFile(path string) (*File, error) {
	file, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*"+temporary)
	if err != nil {
		return nil, err
	}
	return &File{path: path, file: file}, nil
}

// writeStep is how much is written at once. Linux looks for a page as large as the
// write, and keeps pages of up to 32 KiB at hand that were in use just now. Larger
// ones may be memory that nobody has touched for long, and on a virtual machine
// that gives such memory back to its host, getting it again takes half of a
// transfer's time with 128 KiB, and more with a MiB.
const writeStep = 32 << 10

// Write implements io.Writer.
func (f *File) Write(b []byte) (n int, err error) {
	for err == nil && n < len(b) {
		var written int
		written, err = f.file.Write(b[n:min(n+writeStep, len(b))])
		n += written
	}
	f.written += int64(n)
	if ready := f.written - f.started; ready >= writebackStep {
		startWriteback(f.file, f.started, ready)
		f.started = f.written
	}
	return n, err
}

// Path returns the name that the file will have.
func (f *File) Path() string { return f.path }

// Commit makes the file last, and gives it its name; a file that had it is
// replaced. If it fails, nothing is left.
func (f *File) Commit() error {
	err := f.file.Sync()
	if err = errors.Join(err, f.file.Close()); err == nil {
		err = os.Rename(f.file.Name(), f.path)
	}
	if err != nil {
		return errors.Join(err, remove(f.file.Name()))
	}
	if err := syncFolder(filepath.Dir(f.path)); err != nil {
		return errors.Join(err, remove(f.path))
	}
	return nil
}

// Discard removes the unfinished file.
func (f *File) Discard() error {
	return errors.Join(f.file.Close(), remove(f.file.Name()))
}

// remove takes a file that isn't there for removed.
func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// syncFolder makes the names in a folder last.
func syncFolder(path string) error {
	folder, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}

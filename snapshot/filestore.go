package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/pingcap/kvproto/pkg/raft_serverpb"
)

// extension is what the names of complete snapshots end in.
const extension = ".snap"

// FileStoreOptions configures a FileStore. Both fields are mandatory.
type FileStoreOptions struct {
	// Dir is a folder for received snapshots and for nothing else. It is made if
	// it isn't there.
	Dir string
	// Deliver hands the host a snapshot that is complete: the message, to be
	// stepped into Raft, and the file with its data, which is the host's to remove
	// when it has been applied. If it fails the sender is told that the snapshot
	// failed, and the file is removed, unless it was there before. It is called
	// by several goroutines at once. The ctx ends if the sender goes away.
	//
	// The same snapshot may be delivered again, with the same path, if it is sent
	// again while its file is still there. That file is the host's already, which
	// may be reading it: it stays, even if the host fails this time.
	Deliver func(ctx context.Context, message *raft_serverpb.RaftMessage, path string) error
}

// FileStore is a Sink that writes files. Each snapshot's data goes to a temporary
// file, which is synced and gets its name when it is complete.
type FileStore struct{ options FileStoreOptions }

// OpenFileStore opens a folder, and removes what an earlier process left
// unfinished there. Complete snapshots stay; see FileStore.Snapshots.
func OpenFileStore(options FileStoreOptions) (*FileStore, error) {
	switch {
	case options.Dir == "":
		return nil, &OptionError{Field: "Dir", Problem: "is mandatory"}
	case options.Deliver == nil:
		return nil, &OptionError{Field: "Deliver", Problem: "is mandatory"}
	}
	s := &FileStore{options: options}
	if err := s.prepare(); err != nil {
		return nil, fmt.Errorf("snapshot: option Dir: %w", err)
	}
	return s, nil
}

// prepare makes the folder, and removes unfinished files from it.
func (s *FileStore) prepare() error {
	if err := os.MkdirAll(s.options.Dir, 0o755); err != nil {
		return err
	}
	leftovers, err := s.files(temporary)
	if err != nil {
		return err
	}
	for _, path := range leftovers {
		if err := remove(path); err != nil {
			return err
		}
	}
	return syncFolder(s.options.Dir)
}

// Snapshots returns the paths of the complete snapshots. A host that starts anew
// removes those that it has no use for.
func (s *FileStore) Snapshots() ([]string, error) { return s.files(extension) }

func (s *FileStore) files(suffix string) (paths []string, err error) {
	entries, err := os.ReadDir(s.options.Dir)
	if err != nil {
		return nil, err
	}
	for _, entry := range entries {
		if strings.HasSuffix(entry.Name(), suffix) {
			paths = append(paths, filepath.Join(s.options.Dir, entry.Name()))
		}
	}
	return paths, nil
}

// CreateSnapshot implements Sink.
func (s *FileStore) CreateSnapshot(ctx context.Context, message *raft_serverpb.RaftMessage) (Writer, error) {
	d, err := describe(message)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(s.options.Dir, fmt.Sprintf("%d-%d-%d-%d%s", d.regionID, d.peerID, d.term, d.index, extension))
	switch stat, err := os.Stat(path); {
	case err == nil && (d.size == unknownSize || d.size == stat.Size()):
		// A complete file has its name, and no other file has it. It is the host's.
		if err := s.options.Deliver(ctx, message, path); err != nil {
			return nil, refused(err)
		}
		return nil, ErrHave
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	file, err := CreateFile(path)
	if err != nil {
		return nil, err
	}
	return &fileWriter{File: file, store: s, message: message}, nil
}

type fileWriter struct {
	*File
	store   *FileStore
	message *raft_serverpb.RaftMessage
}

// Commit implements Writer.
func (w *fileWriter) Commit(ctx context.Context) error {
	_, missing := os.Stat(w.Path()) // or the host was given that file since we began
	if err := w.File.Commit(); err != nil {
		return err
	}
	err := w.store.options.Deliver(ctx, w.message, w.Path())
	switch {
	case err == nil:
		return nil
	case errors.Is(missing, fs.ErrNotExist):
		return errors.Join(refused(err), remove(w.Path()))
	}
	return refused(err)
}

func refused(err error) error { return fmt.Errorf("the host refused it: %w", err) }

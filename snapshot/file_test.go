package snapshot_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pingcap/kvproto/pkg/raft_serverpb"

	"github.com/raftmux/raftmux/snapshot"
)

// A file has its name only when it is complete.
func TestFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "a")
	for _, text := range []string{"one", "two"} { // the second replaces the first
		f, err := snapshot.CreateFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
		if b, _ := os.ReadFile(path); string(b) == text {
			t.Error("it is there before Commit")
		}
		if err := f.Commit(); err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(path); string(b) != text {
			t.Error(string(b), err)
		}
	}
	f, err := snapshot.CreateFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Discard(); err != nil {
		t.Error(err)
	}
	if names, err := os.ReadDir(filepath.Dir(path)); len(names) != 1 || err != nil {
		t.Error(names, err)
	}
	if _, err := snapshot.CreateFile(filepath.Join(path, "b")); err == nil {
		t.Error("a file in a file")
	}
}

// A FileStore begins without what an earlier process left unfinished, and knows
// what it finished.
func TestFileStoreLeftovers(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "new", "folder")
	host := new(delivered)
	open := func() *snapshot.FileStore {
		t.Helper()
		s, err := snapshot.OpenFileStore(snapshot.FileStoreOptions{Dir: dir, Deliver: host.deliver})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := open()
	for region, end := range map[uint64]func(snapshot.Writer) error{
		1: func(snapshot.Writer) error { return nil }, // the process dies
		2: func(w snapshot.Writer) error { return w.Commit(t.Context()) },
		3: snapshot.Writer.Discard,
	} {
		w, err := s.CreateSnapshot(t.Context(), message(region, 5))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte("12345")); err != nil {
			t.Fatal(err)
		}
		if err := end(w); err != nil {
			t.Fatal(err)
		}
	}
	s = open()
	all, err := s.Snapshots()
	if err != nil || len(all) != 1 {
		t.Errorf("%v are complete, %v", all, err)
	}
	if names, err := os.ReadDir(dir); len(names) != 1 || err != nil {
		t.Errorf("%v are there, %v", names, err)
	}
	if _, err := s.CreateSnapshot(t.Context(), message(2, 5)); !errors.Is(err, snapshot.ErrHave) || len(host.of(2)) != 2 {
		t.Errorf("the same again: %v, delivered %d times", err, len(host.of(2)))
	}
	if _, err := s.CreateSnapshot(t.Context(), new(raft_serverpb.RaftMessage)); !errors.Is(err, snapshot.ErrInvalid) {
		t.Errorf("nothing: %v", err)
	}
}

// What the receiver has already is not sent again, and is delivered all the same.
func TestHaveIt(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	const size = 20 << 20
	want := random(1, size)
	opened := 0
	sender := newSender(t, sourceFunc(func() (snapshot.Data, error) {
		opened++
		return data{bytes.NewReader(want)}, nil
	}))
	for range 2 {
		if err := sender.SendSnapshot(context.Background(), s.address, message(7, size)); err != nil {
			t.Fatal(err)
		}
	}
	stream := plainStream(t, s.address)
	_ = sendPlain(stream, message(7, size), want[:1000])
	if _, err := stream.CloseAndRecv(); err != nil {
		t.Errorf("a plain peer was told %v", err)
	}
	if got := s.host.of(7); len(got) != 3 || len(s.files(t, "")) != 1 {
		t.Errorf("delivered %d times, %v", len(got), s.files(t, ""))
	}
}

// A host that fails to take a snapshot is left with its file only if it was given
// that before.
func TestHostRefuses(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	const size = 5000
	want := random(1, size)
	sender := newSender(t, memory{7: want})
	for i, test := range []struct {
		refuse           error
		files, delivered int
	}{
		{errors.New("not now"), 0, 0},
		{nil, 1, 1},
		{errors.New("not now"), 1, 1},
		{nil, 1, 2},
	} {
		s.host.mu.Lock()
		s.host.refuse = test.refuse
		s.host.mu.Unlock()
		err := sender.SendSnapshot(context.Background(), s.address, message(7, size))
		if (err == nil) != (test.refuse == nil) || err != nil && !strings.Contains(err.Error(), "the host refused it: not now") {
			t.Errorf("attempt %d: %v", i, err)
		}
		s.quiet(t)
		if files := s.files(t, ""); len(files) != test.files || len(s.host.of(7)) != test.delivered {
			t.Errorf("attempt %d: %v are there, delivered %d times", i, files, len(s.host.of(7)))
		}
	}
}

// A host that fails to take a snapshot is left with the file that another Writer
// has given it meanwhile.
func TestHostRefusesTheSecond(t *testing.T) {
	t.Parallel()
	host := new(delivered)
	dir := t.TempDir()
	s, err := snapshot.OpenFileStore(snapshot.FileStoreOptions{Dir: dir, Deliver: host.deliver})
	if err != nil {
		t.Fatal(err)
	}
	var writers []snapshot.Writer
	for range 2 {
		w, err := s.CreateSnapshot(t.Context(), message(7, 5))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte("12345")); err != nil {
			t.Fatal(err)
		}
		writers = append(writers, w)
	}
	if err := writers[0].Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	host.refuse = errors.New("not now")
	if err := writers[1].Commit(t.Context()); err == nil {
		t.Error("it was taken")
	}
	if all, err := s.Snapshots(); len(all) != 1 || err != nil {
		t.Errorf("%v are there, %v", all, err)
	}
}

// A FileSource sends files, and nothing else.
func TestFileSource(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	dir := t.TempDir()
	want := random(1, 5000)
	if err := os.WriteFile(filepath.Join(dir, "7"), want, 0o600); err != nil {
		t.Fatal(err)
	}
	paths := map[uint64]string{7: filepath.Join(dir, "7"), 8: dir, 9: filepath.Join(dir, "9")}
	sender := newSender(t, snapshot.FileSource(func(_ context.Context, m *raft_serverpb.RaftMessage) (string, error) {
		if path, ok := paths[m.GetRegionId()]; ok {
			return path, nil
		}
		return "", errors.New("unknown")
	}))
	if err := sender.SendSnapshot(context.Background(), s.address, message(7, 5000)); err != nil {
		t.Error(err)
	}
	s.expect(t, 7, want)
	for region := uint64(8); region <= 10; region++ {
		if err := sender.SendSnapshot(context.Background(), s.address, message(region, 5000)); err == nil {
			t.Errorf("region %d was sent", region)
		}
	}
}

package kvstore

import (
	"context"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

func TestFolderRefusesOtherStores(t *testing.T) {
	fs := vfs.NewMem()
	base := Options{StoreID: 1, Dir: "data", Peers: map[uint64]string{1: "127.0.0.1:0"}, Regions: 3, FS: fs}
	open := func(change func(*Options)) error {
		options := base
		change(&options)
		store, err := Open(options)
		if err == nil {
			err = store.Close(context.Background())
		}
		return err
	}
	if err := open(func(*Options) {}); err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(*Options){
		"3 regions, 4 are asked for": func(o *Options) { o.Regions = 4 },
		"belongs to store 1, not to": func(o *Options) { o.StoreID, o.Peers = 2, map[uint64]string{2: "127.0.0.1:0"} },
		"on stores [1], not on [1 2]": func(o *Options) {
			o.Peers = map[uint64]string{1: "127.0.0.1:0", 2: "127.0.0.1:1"}
		},
		"StoreID is 0":         func(o *Options) { o.StoreID = 0 },
		"Peers lacks the own":  func(o *Options) { o.StoreID = 2 },
		"Dir is mandatory":     func(o *Options) { o.Dir = "" },
		"Workers is -1":        func(o *Options) { o.Workers = -1 },
		"missing port":         func(o *Options) { o.Peers = map[uint64]string{1: "nonsense"} },
		"option ClientAddr":    func(o *Options) { o.ClientAddr = "nowhere:nothing" },
		"RequestTimeout is -1": func(o *Options) { o.RequestTimeout = -1 },
	} {
		if err := open(change); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error is %v, want one with %q", err, want)
		}
	}
	if err := open(func(*Options) {}); err != nil {
		t.Errorf("the rightful store: %v", err)
	}
}

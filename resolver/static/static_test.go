package static_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/raftmux/raftmux"
	"github.com/raftmux/raftmux/resolver/static"
)

func TestResolve(t *testing.T) {
	var resolver raftmux.Resolver = static.Stores{2: "127.0.0.1:20160"}
	address, err := resolver.Resolve(context.Background(), 2, "")
	if err != nil || address != "127.0.0.1:20160" {
		t.Fatalf("got %q, %v", address, err)
	}
	_, err = resolver.Resolve(context.Background(), 3, "")
	if !errors.Is(err, raftmux.ErrStoreNotFound) || !strings.Contains(err.Error(), "3") {
		t.Fatalf("got %v, want ErrStoreNotFound that names store 3", err)
	}
}

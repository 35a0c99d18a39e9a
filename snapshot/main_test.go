package snapshot_test

import (
	"os"
	"testing"

	"github.com/raftmux/raftmux/internal/rig"
)

func TestMain(m *testing.M) {
	if role := os.Getenv(roleVariable); role != "" {
		runRole(role)
		return
	}
	rig.Main(m)
}

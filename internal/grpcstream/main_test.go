package grpcstream

import (
	"testing"

	"github.com/raftmux/raftmux/internal/rig"
)

func TestMain(m *testing.M) { rig.Main(m) }

package wire

import (
	"bytes"
	"testing"

	"github.com/pingcap/kvproto/pkg/raft_serverpb"
)

// checkParts compares CountParts with what the generated code made of body, up to where
// that failed: nothing that there are many of may escape it.
func checkParts(t failer, body []byte, made *raft_serverpb.RaftMessage) {
	t.Helper()
	lists := len(made.GetMessage().GetEntries()) + len(made.GetMergeTarget().GetPeers()) +
		len(made.GetExtraMsg().GetCheckPeers())
	if parts := CountParts(body, len(body)); parts < lists || parts*PartSize > len(body) {
		t.Fatalf("%x: %d parts are counted, where lists have %d elements", body, parts, lists)
	}
}

func TestCountParts(t *testing.T) {
	t.Parallel()
	raft := []byte{1 << 3, 3, entryTag, 0, entryTag, 2, 2 << 3, 1, 0xba, 0, 0, 12<<3 | wireBytes, 1, 7}
	outer := func(tag ...byte) []byte { return append(append(tag, byte(len(raft))), raft...) }
	group := append(append([]byte{15<<3 | wireStart}, outer(4<<3|wireBytes)...), 15<<3|wireEnd)
	for name, test := range map[string]struct {
		body []byte
		want int
	}{
		"nothing":              {nil, 0},
		"entries, and context": {outer(4<<3 | wireBytes), 4},
		"twice":                {bytes.Repeat(outer(4<<3|wireBytes), 2), 8},
		"a long tag":           {outer(4<<3|wireBytes|0x80, 0), 4},
		"a tag of more than 32 bits": {
			outer(4<<3|wireBytes|0x80, 0x80, 0x80, 0x80, 0x80, 1), 4,
		},
		"merge target":   {outer(9<<3 | wireBytes), 4},
		"extra message":  {outer(10<<3 | wireBytes), 4},
		"extra context":  {outer(11<<3 | wireBytes), 0},
		"in a group":     {group, 0},
		"before the end": {append(outer(4<<3|wireBytes), 4<<3|wireBytes, 100), 4},
	} {
		if got := CountParts(test.body, 100); got != test.want {
			t.Errorf("%s: %d parts, not %d", name, got, test.want)
		}
	}
	if got := CountParts(outer(4<<3|wireBytes), 2); got != 3 {
		t.Errorf("%d parts of at most 2 and one", got)
	}
}

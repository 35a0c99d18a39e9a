package kvstore

import (
	"bytes"
	"reflect"
	"testing"
)

// FuzzCommand checks that what other stores put into the log is refused or means
// one thing.
func FuzzCommand(f *testing.F) {
	c := command{id: requestID{1, 2, 3}, low: 2, op: opSet, key: []byte("k"), value: []byte("v")}
	f.Add(c.encode())
	f.Add([]byte{commandVersion, byte(opDel), 1, 1, 1, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Add([]byte{commandVersion})
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := decodeCommand(data)
		if err != nil {
			return
		}
		again, err := decodeCommand(c.encode())
		if err != nil || again.id != c.id || again.low != c.low || again.op != c.op ||
			!bytes.Equal(again.key, c.key) || !bytes.Equal(again.value, c.value) {
			t.Errorf("%x: %+v, then %+v, %v", data, c, again, err)
		}
	})
}

// FuzzStored checks that rows which came by a snapshot are refused or mean one thing.
func FuzzStored(f *testing.F) {
	row := &dedupRow{incarnation: 1, low: 2, window: []uint64{3, 5}}
	f.Add(row.encode())
	if descriptor, err := foundingDescriptor(7, []uint64{1, 2, 3}, map[uint64]string{1: "a", 2: "b", 3: "c"}).encode(); err == nil {
		f.Add(descriptor)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if row, err := decodeDedupRow(data); err == nil {
			if again, err := decodeDedupRow(row.encode()); err != nil || !reflect.DeepEqual(again, row) {
				t.Errorf("%x: %+v, then %+v, %v", data, row, again, err)
			}
		}
		if d, err := decodeDescriptor(data); err == nil {
			value, err := d.encode()
			if err != nil {
				t.Fatalf("%q: %+v: %v", data, d, err)
			}
			if again, err := decodeDescriptor(value); err != nil || !reflect.DeepEqual(again, d) {
				t.Errorf("%q: %+v, then %+v, %v", data, d, again, err)
			}
		}
	})
}

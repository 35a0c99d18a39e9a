package kvstore

import (
	"encoding/binary"
	"errors"
	"slices"
)

// Why a write is applied once
//
// A write that got no answer is proposed again under the same requestID, so its
// entry may be in the log more than once. Each region keeps, as part of its
// state machine and so the same on every replica, one row per store:
//
//	incarnation  the newest start of the store from which a write was applied
//	low          of that start's writes, all below low are settled
//	window       the sequences at or above low that were applied
//
// A command is applied unless it is from an older start (nobody waits for it any more),
// below low (applied, or given up by its store), or in the window. Then its own low
// moves the row's up and trims the window. The sequences of one start go on when the
// store loses its peer of a region and gets another one, for the row outlives both. A store allows maxPending writes per region
// that are not settled, a range that the window never exceeds; and there is one row per
// store, so the table is bounded by stores x maxPending numbers, and usually holds one.

// dedupRow is the row of one store.
type dedupRow struct {
	incarnation, low uint64
	window           []uint64 // ascending, all >= low
}

// admit says whether the command is to be applied, and if so notes that it was.
func (r *dedupRow) admit(id requestID, low uint64) bool {
	switch {
	case id.incarnation < r.incarnation:
		return false
	case id.incarnation > r.incarnation:
		*r = dedupRow{incarnation: id.incarnation}
	}
	if id.sequence < r.low {
		return false
	}
	at, found := slices.BinarySearch(r.window, id.sequence)
	if found {
		return false
	}
	r.window = slices.Insert(r.window, at, id.sequence)
	if low > r.low {
		r.low = low
		settled, _ := slices.BinarySearch(r.window, low)
		r.window = slices.Delete(r.window, 0, settled)
	}
	return true
}

// applied says whether a write of the row's incarnation was applied, if it isn't
// settled. Of those below low nothing is known.
func (r *dedupRow) applied(sequence uint64) bool {
	_, found := slices.BinarySearch(r.window, sequence)
	return found
}

func (r *dedupRow) encode() []byte {
	buffer := binary.AppendUvarint(nil, r.incarnation)
	buffer = binary.AppendUvarint(buffer, r.low)
	previous := r.low
	for _, sequence := range r.window {
		buffer = binary.AppendUvarint(buffer, sequence-previous)
		previous = sequence
	}
	return buffer
}

var errBadDedupRow = errors.New("kvstore: malformed dedup row")

func decodeDedupRow(data []byte) (*dedupRow, error) {
	next := func() (uint64, error) {
		value, n := binary.Uvarint(data)
		if n <= 0 {
			return 0, errBadDedupRow
		}
		data = data[n:]
		return value, nil
	}
	row := &dedupRow{}
	var err error
	if row.incarnation, err = next(); err != nil {
		return nil, err
	}
	if row.low, err = next(); err != nil {
		return nil, err
	}
	previous := row.low
	for len(data) > 0 {
		delta, err := next()
		if err != nil {
			return nil, err
		}
		previous += delta
		row.window = append(row.window, previous)
	}
	return row, nil
}

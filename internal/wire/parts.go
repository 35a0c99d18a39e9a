package wire

// MaxBatchParts bounds the entries of a batch, and whatever else of its messages there
// may be many of. An empty entry is two bytes, and 120 once it is decoded: without a
// bound a batch of 128 MiB takes 8 GB.
const MaxBatchParts = 4 << 20

// MaxEntries bounds the entries of a message that is sent, so that a Server takes it
// whatever else it has in it.
const MaxEntries = 4_000_000

// PartSize is the least that a part takes on the wire.
const PartSize = 2

// CountParts counts what there may be many of in an encoded RaftMessage: entries, the
// peers of a merge target, peers to check. It counts up to one more than limit, and
// whatever it doesn't know, too. Of a malformed message it counts what comes before that.
func CountParts(message []byte, limit int) (parts int) {
	for field, value := range delimitedFields(message) {
		switch field {
		case 4, 9, 10: // message, merge_target, extra_msg
			for range delimitedFields(value) {
				if parts++; parts > limit {
					return parts
				}
			}
		}
	}
	return parts
}

// delimitedFields yields the length-delimited fields of a message, up to where it is
// malformed. It truncates their numbers, as the generated code does.
func delimitedFields(b []byte) func(yield func(field int32, value []byte) bool) {
	return func(yield func(int32, []byte) bool) {
		for i := 0; i < len(b); {
			end, err := skipField(b, i)
			if err != nil {
				return
			}
			tag, next := uvarint(b, i)
			if tag&7 == wireBytes {
				if value, _ := delimited(b, next); !yield(int32(tag>>3), value) {
					return
				}
			}
			i = end
		}
	}
}

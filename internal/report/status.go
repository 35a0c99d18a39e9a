package report

// SnapshotStatus is how the sending of a snapshot ended.
type SnapshotStatus uint8

// The two ends of a snapshot message.
const (
	SnapshotFinish SnapshotStatus = iota + 1
	SnapshotFailure
)

// String implements fmt.Stringer.
func (s SnapshotStatus) String() string {
	switch s {
	case SnapshotFinish:
		return "finish"
	case SnapshotFailure:
		return "failure"
	default:
		return "unknown"
	}
}

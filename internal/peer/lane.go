package peer

// Lane is what must not wait behind what: every connection belongs to one.
type Lane uint8

// The lanes. A store has the connections of the data lane that the options ask
// for, and one of the control lane.
const (
	// Data carries all that is not control: appends and their responses,
	// proposals, read-index, leader transfer, timeout-now, messages without a body.
	Data Lane = iota
	// Control carries heartbeats, votes, pre-votes, and the responses to them:
	// what keeps leaders in office and elects new ones.
	Control
)

// String returns the lane's name in metadata, metrics and status.
func (l Lane) String() string {
	if l == Control {
		return "control"
	}
	return "data"
}

// controlMinimum is what the control connection of a store may hold whatever the
// budget says: tens of thousands of heartbeats.
const controlMinimum = 4 << 20

// voteReserve is the part of the control queue that heartbeats leave to votes, of
// its messages and of its bytes: each read-index broadcasts a round of heartbeats,
// so they are not always few.
func voteReserve(all int) int { return all / 4 }

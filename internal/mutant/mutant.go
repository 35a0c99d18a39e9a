// Package mutant breaks the contract on purpose. Each clause of docs/CONTRACT.md
// has one believable defect in the code, at the place that compares Active with
// the clause's name; the build tag mutant_c<number> turns it on, and .ci/mutants
// shows that the tests which hold the clause then fail.
//
// Active is a constant, None without such a tag, so the compiler leaves all of
// it out. Two tags at once don't build.
package mutant

// Clause is a clause of the contract.
type Clause uint8

// The clauses that can be broken.
const (
	None Clause = iota
	C1
	C2
	C3
	C4
	C5
	C6
	C7
	C8
	C9
	C10
	C11
	C12
	C13
	C14
	C15
	C16
	C17
	C18
	C19
	C20
	C21
	C22
	C23
	C24
)

//go:build mutant_c17

package mutant

// Active is the clause that is broken.
const Active = C17

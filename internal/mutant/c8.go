//go:build mutant_c8

package mutant

// Active is the clause that is broken.
const Active = C8

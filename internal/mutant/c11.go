//go:build mutant_c11

package mutant

// Active is the clause that is broken.
const Active = C11

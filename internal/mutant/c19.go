//go:build mutant_c19

package mutant

// Active is the clause that is broken.
const Active = C19

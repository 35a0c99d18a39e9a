//go:build mutant_c13

package mutant

// Active is the clause that is broken.
const Active = C13

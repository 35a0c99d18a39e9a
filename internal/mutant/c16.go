//go:build mutant_c16

package mutant

// Active is the clause that is broken.
const Active = C16

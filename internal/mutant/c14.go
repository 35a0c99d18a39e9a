//go:build mutant_c14

package mutant

// Active is the clause that is broken.
const Active = C14

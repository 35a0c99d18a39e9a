//go:build mutant_c10

package mutant

// Active is the clause that is broken.
const Active = C10

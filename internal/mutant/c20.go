//go:build mutant_c20

package mutant

// Active is the clause that is broken.
const Active = C20

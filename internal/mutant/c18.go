//go:build mutant_c18

package mutant

// Active is the clause that is broken.
const Active = C18

// Package stats says what a list of figures is worth.
package stats

import (
	"math"
	"math/rand/v2"
	"slices"
)

// Median returns the middle value, or NaN if there is none.
func Median(values []float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}

// Interval is where a median lies with a probability of 95 %.
type Interval struct{ Median, Low, High float64 }

// resamples is how often Bootstrap draws.
const resamples = 10_000

// Bootstrap returns the 95 % percentile interval of the median. It draws the
// same numbers every time. With fewer than two values it says nothing: the
// interval is as wide as can be.
func Bootstrap(values []float64) Interval {
	if len(values) < 2 {
		return Interval{Median: Median(values), Low: math.Inf(-1), High: math.Inf(1)}
	}
	random := rand.New(rand.NewPCG(95, uint64(len(values))))
	medians := make([]float64, resamples)
	drawn := make([]float64, len(values))
	for i := range medians {
		for j := range drawn {
			drawn[j] = values[random.IntN(len(values))]
		}
		medians[i] = Median(drawn)
	}
	slices.Sort(medians)
	// Outwards, where there is a choice.
	low := int(math.Floor(0.025 * (resamples - 1)))
	high := int(math.Ceil(0.975 * (resamples - 1)))
	return Interval{Median: Median(values), Low: medians[low], High: medians[high]}
}

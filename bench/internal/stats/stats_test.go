package stats

import (
	"math"
	"math/rand/v2"
	"testing"
)

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		values []float64
		want   float64
	}{
		{[]float64{3}, 3},
		{[]float64{3, 1}, 2},
		{[]float64{9, 1, 5}, 5},
		{[]float64{4, 1, 3, 2}, 2.5},
	} {
		if got := Median(c.values); got != c.want {
			t.Errorf("Median(%v) = %v, want %v", c.values, got, c.want)
		}
	}
	if got := Median(nil); !math.IsNaN(got) {
		t.Errorf("Median of nothing is %v, want NaN", got)
	}
}

func TestBootstrapSaysNothingOfOneValue(t *testing.T) {
	got := Bootstrap([]float64{7})
	if got.Median != 7 || !math.IsInf(got.Low, -1) || !math.IsInf(got.High, 1) {
		t.Errorf("Bootstrap of one value is %+v", got)
	}
}

func TestBootstrapOfEqualValues(t *testing.T) {
	if got := Bootstrap([]float64{2, 2, 2, 2}); got != (Interval{2, 2, 2}) {
		t.Errorf("Bootstrap of equal values is %+v", got)
	}
}

// Of intervals that claim 95 %, about that share must hold the true median.
func TestBootstrapHoldsTheMedian(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	const trials = 60
	held := 0
	for range trials {
		values := make([]float64, 15)
		for i := range values {
			values[i] = math.Exp(random.NormFloat64()) // its median is 1
		}
		if got := Bootstrap(values); got.Low <= 1 && 1 <= got.High {
			held++
		}
	}
	if held < trials*85/100 {
		t.Errorf("%d of %d intervals hold the median", held, trials)
	}
}

package main

import (
	"cmp"
	"fmt"
	"html"
	"slices"
	"strings"

	"github.com/raftmux/raftmux/bench/internal/stats"
)

// Measures of the chart, in pixels.
const (
	chartWidth  = 960
	labelWidth  = 150
	valueWidth  = 190
	barHeight   = 16
	barGap      = 5
	panelGap    = 46
	chartMargin = 24
	headHeight  = 86
	mostRatio   = 1 / 0.7 // how much wider the scale is than its longest bar needs
)

// Colours of a bar's parts.
const (
	senderColour   = "#2f6fab"
	receiverColour = "#8fbce6"
	oursColour     = "#1b4965"
	textColour     = "#1f2933"
	faintColour    = "#6b7785"
)

// chartBar is one transport in one panel.
type chartBar struct {
	name          string
	sender, total float64 // ns per message; the rest of the total is the receiver's
	rate          float64
}

// chart draws a panel for each shape with the CPU per message of each transport,
// what the sender takes and what the receiver takes, the least on top.
func (r *report) chart() string {
	panels, names := r.panels()
	height := headHeight + chartMargin
	for _, name := range names {
		height += panelGap + len(panels[name])*(barHeight+barGap)
	}
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" font-family="DejaVu Sans, Helvetica, Arial, sans-serif" font-size="12" fill="%s">`+"\n",
		chartWidth, height, chartWidth, height, textColour)
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="#ffffff"/>`+"\n", chartWidth, height)
	text(&b, chartMargin, 34, "start", `font-size="18" font-weight="bold"`, "CPU per message, both sides together: less is better")
	legend(&b, chartMargin, 56)
	y := headHeight
	for _, name := range names {
		y = drawPanel(&b, y, name, panels[name])
	}
	b.WriteString("</svg>\n")
	return b.String()
}

// panels returns the bars of each shape, and the shapes in their order.
func (r *report) panels() (panels map[string][]chartBar, names []string) {
	panels = make(map[string][]chartBar)
	for _, c := range r.cases(throughput) {
		m := func(figure func(Sample) float64) float64 { return stats.Median(r.results.values(c, figure)) }
		if panels[c.Shape] == nil {
			names = append(names, c.Shape)
		}
		// The parts are shares: medians of them don't add up to the median.
		total := m(Sample.CPU)
		share := m(func(s Sample) float64 { return s.SenderCPU / s.CPU() })
		panels[c.Shape] = append(panels[c.Shape], chartBar{name: c.Arm, rate: m(rateOf), sender: total * share, total: total})
	}
	for _, bars := range panels {
		slices.SortStableFunc(bars, func(a, b chartBar) int {
			return cmp.Compare(a.total, b.total)
		})
	}
	return panels, names
}

func legend(b *strings.Builder, x, y int) {
	for _, entry := range []struct{ colour, name string }{
		{senderColour, "sender"}, {receiverColour, "receiver"},
	} {
		fmt.Fprintf(b, `<rect x="%d" y="%d" width="12" height="12" fill="%s"/>`+"\n", x, y-10, entry.colour)
		text(b, x+18, y, "start", "", entry.name)
		x += 90
	}
	text(b, x, y, "start", fmt.Sprintf(`fill="%s"`, faintColour),
		"A bar with a ragged end is longer than the panel; the figure beside it is right. Delivered messages a second in grey.")
}

// drawPanel draws one shape at y and returns where the next begins. The scale is
// made for all but those that take several times what the median does.
func drawPanel(b *strings.Builder, y int, name string, bars []chartBar) int {
	text(b, chartMargin, y+14, "start", `font-size="14" font-weight="bold"`, name)
	y += 24
	left := chartMargin + labelWidth
	room := float64(chartWidth - left - valueWidth - chartMargin)
	var totals []float64
	for _, bar := range bars {
		totals = append(totals, bar.total)
	}
	longest := min(slices.Max(totals), stats.Median(totals)*2*mostRatio)
	for _, bar := range bars {
		colour := textColour
		weight := ""
		if strings.HasPrefix(bar.name, "raftmux") {
			colour, weight = oursColour, ` font-weight="bold"`
		}
		text(b, left-8, y+12, "end", fmt.Sprintf(`fill="%s"%s`, colour, weight), bar.name)
		scale := room / longest
		width := min(bar.total*scale, room)
		sender := min(bar.sender*scale, width)
		fmt.Fprintf(b, `<rect x="%d" y="%d" width="%.1f" height="%d" fill="%s"/>`+"\n", left, y, sender, barHeight, senderColour)
		fmt.Fprintf(b, `<rect x="%.1f" y="%d" width="%.1f" height="%d" fill="%s"/>`+"\n", float64(left)+sender, y, width-sender, barHeight, receiverColour)
		end := float64(left) + width
		if bar.total*scale > room {
			ragged(b, end, y)
		}
		text(b, int(end)+8, y+12, "start", "", nanoseconds(bar.total))
		text(b, chartWidth-chartMargin, y+12, "end", fmt.Sprintf(`fill="%s"`, faintColour), rateText(bar.rate)+"/s")
		y += barHeight + barGap
	}
	return y + panelGap - 24
}

// ragged cuts the end of a bar that goes on.
func ragged(b *strings.Builder, end float64, y int) {
	quarter := float64(barHeight) / 4
	fmt.Fprintf(b, `<path d="M%.1f %d`, end+1, y-1)
	for i := 1; i <= 4; i++ {
		fmt.Fprintf(b, " L%.1f %.1f", end+1-6*float64(i%2), float64(y)+float64(i)*quarter)
	}
	fmt.Fprintf(b, ` L%.1f %d Z" fill="#ffffff"/>`+"\n", end+2, y+barHeight+1)
}

func nanoseconds(value float64) string {
	if value >= 10_000 {
		return fmt.Sprintf("%.1f µs", value/1000)
	}
	return fmt.Sprintf("%.0f ns", value)
}

func text(b *strings.Builder, x, y int, anchor, attributes, content string) {
	if attributes != "" {
		attributes = " " + attributes
	}
	fmt.Fprintf(b, `<text x="%d" y="%d" text-anchor="%s"%s>%s</text>`+"\n", x, y, anchor, attributes, html.EscapeString(content))
}

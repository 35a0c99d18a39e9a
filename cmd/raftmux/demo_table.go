package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

// printer writes the demo's screen. It is one goroutine's.
type printer struct {
	out    io.Writer
	colour bool
	lines  int
	cut    func() // called when nobody reads what is written
}

// newPrinter uses colours if out is a terminal and the user doesn't mind.
func newPrinter(out io.Writer, cut func()) *printer {
	p := &printer{out: out, cut: cut}
	if file, ok := out.(*os.File); ok && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" {
		stat, err := file.Stat()
		p.colour = err == nil && stat.Mode()&os.ModeCharDevice != 0
	}
	return p
}

// The SGR codes used.
const (
	bold   = "1"
	dim    = "2"
	red    = "31"
	green  = "32"
	yellow = "33"
)

func (p *printer) paint(code, text string) string {
	if !p.colour {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

func (p *printer) println(text string) {
	if _, err := fmt.Fprintln(p.out, text); err != nil {
		p.cut()
	}
}

// event tells of something that happened between two lines of the table.
func (p *printer) event(at time.Duration, code, text string) {
	p.println(p.paint(code, fmt.Sprintf("%5.1fs  >> %s", at.Seconds(), text)))
}

// headEvery says after how many lines the table's head is repeated.
const headEvery = 30

func (p *printer) head() {
	if p.lines%headEvery == 0 {
		p.println(p.paint(bold, "  time store  leaders  msgs out/s  msgs in/s   MiB out/s    in/s  msgs/batch  queue  drops  writes/s"))
	}
	p.lines++
}

// row is one store in one second.
type row struct {
	store                   uint64
	leaders                 uint64
	messagesOut, messagesIn float64 // per second, as the rest
	bytesOut, bytesIn       float64
	perBatch                float64
	queue, drops            uint64
	writes                  float64
}

func (p *printer) row(at time.Duration, r row, first bool) {
	p.head()
	drops := fmt.Sprintf("%7d", r.drops)
	if r.drops > 0 {
		drops = p.paint(yellow, drops)
	}
	p.println(fmt.Sprintf("%s %5d %8d %11s %10s %11.2f %7.2f %11.1f %6d%s %9s",
		p.time(at, first), r.store, r.leaders, grouped(int64(r.messagesOut)), grouped(int64(r.messagesIn)),
		r.bytesOut/(1<<20), r.bytesIn/(1<<20), r.perBatch, r.queue, drops, grouped(int64(r.writes))))
}

func (p *printer) silent(at time.Duration, store uint64, why string, first bool) {
	p.head()
	p.println(fmt.Sprintf("%s %5d %s", p.time(at, first), store, p.paint(red, "    "+why)))
}

// time shows the time once per second, not once per store.
func (p *printer) time(at time.Duration, first bool) string {
	if !first {
		return strings.Repeat(" ", 6)
	}
	return p.paint(dim, fmt.Sprintf("%5.0fs", at.Seconds()))
}

// count writes a number of things.
func count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return grouped(int64(n)) + " " + thing + "s"
}

// grouped writes a number with commas.
func grouped(n int64) string {
	if n < 0 {
		return "-" + grouped(-n)
	}
	text := fmt.Sprint(n)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}

// seconds writes a duration as a person would.
func seconds(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return fmt.Sprintf("%.2f ms", float64(d)/float64(time.Millisecond))
	case d < time.Second:
		return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond))
	default:
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
}

func mebibytes(n uint64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }

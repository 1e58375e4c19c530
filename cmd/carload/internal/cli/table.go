package cli

import (
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// cell is a value of a table, in one form for programs and one for people.
type cell struct {
	plain, human string
	right        bool // align right, to compare numbers
}

func textCell(s string) cell { return cell{plain: s, human: s} }

func countCell(n int) cell { return cell{itoa(n), itoa(n), true} }

func bytesCell(n int64) cell { return cell{strconv.FormatInt(n, 10), formatBytes(n), true} }

// timeCell is in UTC for programs, and in local time for people. A zero time is
// unknown.
func timeCell(t time.Time) cell {
	if t.IsZero() {
		return cell{human: "-"}
	}
	return cell{plain: t.UTC().Format(time.RFC3339), human: t.Local().Format("2006-01-02 15:04")} //nolint:gosmopolitan // people live somewhere
}

// table prints results as rows. Programs get values separated by tabs. On a
// terminal they are columns with headings, as wide as the first rows need;
// nothing is cut.
type table struct {
	con     *console
	heading []string
	people  bool
	rows    [][]cell // waiting until the widths are known
	widths  []int    // nil while rows wait
	right   []bool
}

// widthRows is the number of rows that determine the widths.
const widthRows = 500

func (c *console) table(heading ...string) *table {
	return &table{con: c, heading: heading, people: !c.json && isTerminal(c.out)}
}

func (t *table) row(cells ...cell) {
	if !t.people {
		plain := make([]string, len(cells))
		for i, c := range cells {
			plain[i] = c.plain
		}
		t.con.result(strings.Join(plain, "\t"))
		return
	}
	if t.widths == nil {
		if t.rows = append(t.rows, cells); len(t.rows) >= widthRows {
			t.flush()
		}
		return
	}
	t.print(cells)
}

// flush prints the waiting rows. Call it after the last row.
func (t *table) flush() {
	if len(t.rows) == 0 {
		return
	}
	t.widths, t.right = make([]int, len(t.heading)), make([]bool, len(t.heading))
	head := make([]cell, len(t.heading))
	for i, name := range t.heading {
		head[i] = textCell(name)
	}
	for _, row := range append(t.rows, head) {
		for i, c := range row {
			t.widths[i] = max(t.widths[i], utf8.RuneCountInString(c.human))
			t.right[i] = t.right[i] || c.right
		}
	}
	t.print(head)
	for _, row := range t.rows {
		t.print(row)
	}
	t.rows = nil
}

func (t *table) print(row []cell) {
	var line strings.Builder
	for i, c := range row {
		pad := strings.Repeat(" ", max(0, t.widths[i]-utf8.RuneCountInString(c.human)))
		switch {
		case t.right[i]:
			line.WriteString(pad + c.human)
		case i == len(row)-1:
			line.WriteString(c.human)
		default:
			line.WriteString(c.human + pad)
		}
		if i < len(row)-1 {
			line.WriteString("  ")
		}
	}
	t.con.result(line.String())
}

//go:build linux

package main

import (
	"fmt"
	"html"
	"io"
	"strings"
	"time"
	"unicode/utf8"
)

// Sizes in the picture, in pixels.
const (
	charWidth, lineHeight = 8.4, 19.0
	fontSize, margin      = 14, 14
	rest                  = 5 * time.Second // how long the last frame stays before the animation restarts
)

// writeSVG writes a picture of the frames: they lie below one another, and a
// window moves over them. Viewers without animation show the last frame.
func writeSVG(w io.Writer, frames []frame) error {
	b := new(strings.Builder)
	last := frames[len(frames)-1]
	all := last.at + rest
	width, height := columns*charWidth, rows*lineHeight
	fmt.Fprintf(b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %.0f %.0f" font-family="ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace" font-size="%d">
<title>carload up is interrupted, resumes, and verifies the upload</title>
<style>
text { white-space: pre; fill: #c9d1d9 }
.typed { fill: #fff; font-weight: 600 }
.bar { fill: #7ee787 }
.frames { transform: translateY(%.0fpx); animation: play %.2fs step-end infinite }
@media (prefers-reduced-motion: reduce) { .frames { animation: none } }
@keyframes play {
`, width+2*margin, height+2*margin, fontSize, -float64(len(frames)-1)*height, all.Seconds())
	for i, f := range frames {
		fmt.Fprintf(b, "%.2f%% { transform: translateY(%.0fpx) }\n", float64(f.at)/float64(all)*100, -float64(i)*height)
	}
	fmt.Fprint(b, "}\n</style>\n<defs>\n")
	ids := map[string]int{}
	for _, f := range frames {
		for _, line := range f.lines {
			if _, ok := ids[line]; ok || line == "" {
				continue
			}
			ids[line] = len(ids)
			class := ""
			if strings.HasPrefix(line, "$ ") {
				class = ` class="typed"`
			} else if strings.Contains(line, "  [=") {
				class = ` class="bar"`
			}
			n := utf8.RuneCountInString(line)
			fmt.Fprintf(b, "<text id=\"l%d\"%s textLength=\"%.1f\" lengthAdjust=\"spacingAndGlyphs\" xml:space=\"preserve\">%s</text>\n", ids[line], class, float64(n)*charWidth, html.EscapeString(line))
		}
	}
	fmt.Fprintf(b, "</defs>\n<rect width=\"100%%\" height=\"100%%\" rx=\"8\" fill=\"#0d1117\"/>\n<svg x=\"%d\" y=\"%d\" width=\"%.0f\" height=\"%.0f\">\n<g class=\"frames\">\n", margin, margin, width, height)
	for i, f := range frames {
		fmt.Fprintf(b, "<g transform=\"translate(0,%.0f)\"><rect x=\"%.1f\" y=\"%.0f\" width=\"%.1f\" height=\"%.0f\" fill=\"#8b949e\"/>", float64(i)*height, float64(f.x)*charWidth, float64(f.y)*lineHeight+1, charWidth, lineHeight-2)
		for y, line := range f.lines {
			if line != "" {
				fmt.Fprintf(b, `<use href="#l%d" y="%.0f"/>`, ids[line], float64(y)*lineHeight+fontSize)
			}
		}
		fmt.Fprint(b, "</g>\n")
	}
	fmt.Fprint(b, "</g>\n</svg>\n</svg>\n")
	_, err := io.WriteString(w, b.String())
	return err
}

// Command report writes the table and the plots for the results of a benchmark:
//
//	report results.json RESULTS.md PLOTS_FOLDER
package main

import (
	"encoding/json"
	"fmt"
	"image/color"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
)

// A row is one measure: its rounds, and the ratio handover/stock of each.
type row struct {
	ID       string          `json:"id"`
	Title    string          `json:"title"`
	Unit     string          `json:"unit"`
	Stock    []float64       `json:"stock"`
	Handover []float64       `json:"handover"`
	Ratio    []float64       `json:"ratio"`
	Target   json.RawMessage `json:"target"`
}

type results struct {
	Machine map[string]any `json:"machine"`
	Rows    []row          `json:"rows"`
}

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: report results.json RESULTS.md PLOTS_FOLDER")
		os.Exit(2)
	}
	if err := writeReport(os.Args[1], os.Args[2], os.Args[3]); err != nil {
		fmt.Fprintln(os.Stderr, "report:", err)
		os.Exit(1)
	}
}

func writeReport(in, table, plots string) error {
	text, err := os.ReadFile(in)
	if err != nil {
		return err
	}
	var r results
	if err := json.Unmarshal(text, &r); err != nil {
		return fmt.Errorf("%s: %w", in, err)
	}
	if err := os.WriteFile(table, []byte(r.markdown()), 0o644); err != nil {
		return err
	}
	if err := os.MkdirAll(plots, 0o755); err != nil {
		return err
	}
	if err := r.drawConnects(filepath.Join(plots, "connect.svg")); err != nil {
		return err
	}
	if err := r.drawLookups(filepath.Join(plots, "lookups.svg")); err != nil {
		return err
	}
	return r.drawRatios(filepath.Join(plots, "ratios.svg"))
}

func median(values []float64) float64 { return quantile(values, 0.5) }

// quantile interpolates linearly between the values.
func quantile(values []float64, q float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	at := q * float64(len(sorted)-1)
	low := int(at)
	high := min(low+1, len(sorted)-1)
	return sorted[low] + (sorted[high]-sorted[low])*(at-float64(low))
}

// markdown returns the text of RESULTS.md.
func (r results) markdown() string {
	var b strings.Builder
	m := r.Machine
	fmt.Fprintf(&b, "# Results\n\n`make bench` on %v, %v cores, %v GiB, %v, OTP %v, %v, %v. Each round "+
		"measured handover and its rival one right after the other. The ratio is handover's value divided by the rival's: the median of "+
		"the rounds. The spread contains the middle half of the ratios. The median decides whether a target is met (✔) or missed (✘). "+
		"? means that the target lies within the spread, so another run may give the other result.\n\n", m["cpu"], m["cores"],
		m["memory_gib"], m["kernel"], m["otp"], m["go"], m["date"])
	b.WriteString("| measure | rival | handover | unit | ratio | spread | target | |\n|---|---|---|---|---|---|---|---|\n")
	for _, x := range r.Rows {
		stock, ratio, spread := "", "", ""
		if len(x.Ratio) > 0 {
			stock = formatNumber(median(x.Stock))
			ratio = fmt.Sprintf("%.2f", median(x.Ratio))
			spread = fmt.Sprintf("%.2f to %.2f", quantile(x.Ratio, 0.25), quantile(x.Ratio, 0.75))
		}
		target, verdict := x.verdict()
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s | %s | %s |\n", x.Title, stock, formatNumber(median(x.Handover)), x.Unit, ratio, spread,
			target, verdict)
	}
	return b.String()
}

// formatNumber returns x with two decimals if it is less than 100, and without decimals otherwise.
func formatNumber(x float64) string {
	if x >= 100 {
		return fmt.Sprintf("%.0f", x)
	}
	return fmt.Sprintf("%.2f", x)
}

// verdict compares the median ratio (ge, le) or the median value (value_ge, value_le) with the target. It returns the target as
// text, and whether it was met.
func (x row) verdict() (target, verdict string) {
	var t map[string]float64
	if json.Unmarshal(x.Target, &t) != nil || len(t) == 0 {
		return "", ""
	}
	met, certain := true, true
	var texts []string
	for _, key := range []string{"ge", "le", "value_ge", "value_le"} {
		bound, ok := t[key]
		if !ok {
			continue
		}
		values := x.Handover
		if !strings.HasPrefix(key, "value_") {
			values = x.Ratio
		}
		value := median(values)
		certain = certain && (len(values) == 1 || bound < quantile(values, 0.25) || bound > quantile(values, 0.75) || value == bound)
		sign := "≥"
		if strings.HasSuffix(key, "ge") {
			met = met && value >= bound
		} else {
			sign = "≤"
			met = met && value <= bound
		}
		texts = append(texts, fmt.Sprintf("%s %v", sign, bound))
	}
	verdict = "✘"
	if met {
		verdict = "✔"
	}
	if !certain {
		verdict += " ?"
	}
	return strings.Join(texts, ", "), verdict
}

var (
	stockColor    = color.RGBA{R: 0xd0, G: 0x6a, B: 0x1e, A: 0xff}
	handoverColor = color.RGBA{R: 0x1e, G: 0x7f, B: 0xb8, A: 0xff}
)

// series returns the points of the rows prefix+N for each N of xs. It multiplies their values by scale.
func (r results) series(xs []int, prefix string, scale float64) (stock, handover plotter.XYs) {
	for _, n := range xs {
		for _, x := range r.Rows {
			if x.ID == fmt.Sprint(prefix, n) {
				stock = append(stock, plotter.XY{X: float64(n), Y: median(x.Stock) * scale})
				handover = append(handover, plotter.XY{X: float64(n), Y: median(x.Handover) * scale})
			}
		}
	}
	return stock, handover
}

func (r results) drawConnects(path string) error {
	stock, handover := r.series([]int{0, 10, 50, 200}, "rtt", 0.001)
	return drawLines(path, "Connecting two nodes", "round trip of the network, ms", "connect, ms", stock, handover)
}

func (r results) drawLookups(path string) error {
	stock, handover := r.series([]int{1, 8, 32, 64}, "lookups", 0.001)
	return drawLines(path, "EPMD lookups", "clients at once", "thousand lookups a second", stock, handover)
}

// drawLines plots stock and handover. It is a no-op if they have no points.
func drawLines(path, title, x, y string, stock, handover plotter.XYs) error {
	if len(stock) == 0 {
		return nil // not measured, because that needs root
	}
	p := plot.New()
	p.BackgroundColor = color.White
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = title, x, y
	p.X.Min, p.Y.Min = 0, 0
	p.Legend.Top, p.Legend.Left = true, true
	p.Add(plotter.NewGrid())
	for _, s := range []struct {
		name   string
		points plotter.XYs
		color  color.Color
	}{{"stock", stock, stockColor}, {"handover", handover, handoverColor}} {
		line, points, err := plotter.NewLinePoints(s.points)
		if err != nil {
			return err
		}
		line.Color, points.Color, line.Width = s.color, s.color, vg.Points(2)
		p.Add(line, points)
		p.Legend.Add(s.name, line, points)
	}
	return p.Save(5*vg.Inch, 3.2*vg.Inch, path)
}

// drawRatios plots the ratios of the data path. A box is the middle half of the ratios; the whiskers show the others.
func (r results) drawRatios(path string) error {
	p := plot.New()
	p.BackgroundColor = color.White
	p.Title.Text, p.Y.Label.Text = "Data path: handover divided by inet_tcp", "ratio"
	var names []string
	for _, x := range r.Rows {
		if name, ok := map[string]string{"small": "small messages/s", "mib": "1 MiB, MB/s", "mib64": "64 MiB, MB/s",
			"rpc50": "rpc, µs"}[x.ID]; ok {
			box, err := plotter.NewBoxPlot(vg.Points(30), float64(len(names)), plotter.Values(x.Ratio))
			if err != nil {
				return err
			}
			box.FillColor = handoverColor
			p.Add(box)
			names = append(names, name)
		}
	}
	p.NominalX(names...)
	one := plotter.NewFunction(func(float64) float64 { return 1 })
	one.Color, one.Width = stockColor, vg.Points(1.5)
	p.Add(one)
	return p.Save(5*vg.Inch, 3.2*vg.Inch, path)
}

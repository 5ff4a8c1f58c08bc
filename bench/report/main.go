// Command report makes the table and the plots of a benchmark's results:
//
//	report results.json RESULTS.md PLOTS_FOLDER
//
// It is a module of its own, so that the plotting library is no dependency of the programs.
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
	if err := report(os.Args[1], os.Args[2], os.Args[3]); err != nil {
		fmt.Fprintln(os.Stderr, "report:", err)
		os.Exit(1)
	}
}

func report(in, table, plots string) error {
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
	if err := r.connects(filepath.Join(plots, "connect.svg")); err != nil {
		return err
	}
	if err := r.lookups(filepath.Join(plots, "lookups.svg")); err != nil {
		return err
	}
	return r.ratios(filepath.Join(plots, "ratios.svg"))
}

func median(values []float64) float64 { return quantile(values, 0.5) }

// quantile goes straight from one value to the next.
func quantile(values []float64, q float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	at := q * float64(len(sorted)-1)
	low := int(at)
	high := min(low+1, len(sorted)-1)
	return sorted[low] + (sorted[high]-sorted[low])*(at-float64(low))
}

func (r results) markdown() string {
	var b strings.Builder
	m := r.Machine
	fmt.Fprintf(&b, "# Results\n\n`make bench` on %v, %v cores, %v GiB, %v, OTP %v, %v, %v. Each pair was measured in turns in the same run; "+
		"the ratio is handover's by the rival's, pair by pair: the median, and between which the middle half of the pairs is. A target is "+
		"met (✔) or missed (✘) by the median; ? says that its bound is within the middle half, so that another run may say otherwise.\n\n", m["cpu"], m["cores"],
		m["memory_gib"], m["kernel"], m["otp"], m["go"], m["date"])
	b.WriteString("| measure | rival | handover | unit | ratio | spread | target | |\n|---|---|---|---|---|---|---|---|\n")
	for _, x := range r.Rows {
		stock, ratio, spread := "", "", ""
		if len(x.Ratio) > 0 {
			stock = number(median(x.Stock))
			ratio = fmt.Sprintf("%.2f", median(x.Ratio))
			spread = fmt.Sprintf("%.2f to %.2f", quantile(x.Ratio, 0.25), quantile(x.Ratio, 0.75))
		}
		target, verdict := x.verdict()
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s | %s | %s |\n", x.Title, stock, number(median(x.Handover)), x.Unit, ratio, spread,
			target, verdict)
	}
	return b.String()
}

func number(x float64) string {
	if x >= 100 {
		return fmt.Sprintf("%.0f", x)
	}
	return fmt.Sprintf("%.2f", x)
}

// verdict compares the median ratio (ge, le) or the median value (value_ge, value_le) with the target.
func (x row) verdict() (target, verdict string) {
	var t map[string]float64
	if json.Unmarshal(x.Target, &t) != nil || len(t) == 0 {
		return "", ""
	}
	met, sure := true, true
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
		sure = sure && (len(values) == 1 || bound < quantile(values, 0.25) || bound > quantile(values, 0.75) || value == bound)
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
	if !sure {
		verdict += " ?"
	}
	return strings.Join(texts, ", "), verdict
}

var (
	stockColor    = color.RGBA{R: 0xd0, G: 0x6a, B: 0x1e, A: 0xff}
	handoverColor = color.RGBA{R: 0x1e, G: 0x7f, B: 0xb8, A: 0xff}
)

// series plots prefix+N for each N of xs, in the unit that scale makes of the row's.
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

func (r results) connects(path string) error {
	stock, handover := r.series([]int{0, 10, 50, 200}, "rtt", 0.001)
	return draw(path, "Connecting two nodes", "round trip of the network, ms", "connect, ms", stock, handover)
}

func (r results) lookups(path string) error {
	stock, handover := r.series([]int{1, 8, 32, 64}, "lookups", 0.001)
	return draw(path, "EPMD lookups", "clients at once", "thousand lookups a second", stock, handover)
}

func draw(path, title, x, y string, stock, handover plotter.XYs) error {
	if len(stock) == 0 {
		return nil // not measured: no root
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

// ratios draws the data path's beside inet_tcp: a box is the middle half of the pairs, the whiskers reach to the others.
func (r results) ratios(path string) error {
	p := plot.New()
	p.BackgroundColor = color.White
	p.Title.Text, p.Y.Label.Text = "Data path: handover by inet_tcp", "ratio"
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

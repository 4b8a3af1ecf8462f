package generator

import (
	"fmt"
	"testing"

	"salsa.debian.org/cloud-team/debcloud/internal/image"
)

func BenchmarkLay(b *testing.B) {
	for _, n := range []int{100, 1000, 10000} {
		c, err := parse("synthetic.yaml", []byte(synthetic(n)))
		if err != nil {
			b.Fatal(err)
		}
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				plan, err := c.Plan(image.Daily, Selection{})
				if err != nil {
					b.Fatal(err)
				}
				p, err := Layout{PartName: "child"}.Lay(b.Context(), plan)
				if err != nil {
					b.Fatal(err)
				}
				size := 0
				for _, f := range p.Files {
					size += len(f.JSON)
				}
				b.ReportMetric(float64(size)/float64(n), "bytes/cell")
				b.ReportMetric(float64(len(p.Files)), "files")
			}
		})
	}
}

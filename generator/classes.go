package generator

import (
	"slices"

	"salsa.debian.org/cloud-team/debcloud/internal/image"
)

// Classes returns the FAI classes of a cell in the order in which FAI defines them: BUILD_IMAGE, BASE, DEBIAN, then those
// of build type, release, vendor and arch, then LAST. Before a class of the four groups stands its combination OLD+NEW with
// every class from before its group, so that files and hooks of the config space can be keyed to BOOKWORM+AZURE.
func (c *Config) Classes(cell image.Cell, t image.BuildType) []string {
	groups := classGroups(cell, t)
	classes := slices.Clone(firstClasses)
	for _, group := range groups {
		before := len(classes)
		for _, class := range group {
			for _, old := range classes[:before] {
				classes = append(classes, old+"+"+class)
			}
			classes = append(classes, class)
		}
	}
	return append(classes, lastClass)
}

var firstClasses = []string{"BUILD_IMAGE", "BASE", "DEBIAN"}

const lastClass = "LAST"

func classGroups(cell image.Cell, t image.BuildType) [][]string {
	return [][]string{t.Classes, cell.Release.Classes, cell.Vendor.Classes, cell.Arch.Classes}
}

// plainClasses are the classes without the combinations.
func plainClasses(cell image.Cell, t image.BuildType) []string {
	return slices.Concat(append([][]string{firstClasses}, append(classGroups(cell, t), []string{lastClass})...)...)
}

package vmimages

import "embed"

// Runner holds, below runner, what the FAI config space of the image has that the executor boots for a job, on top of
// ConfigSpace: class RUNNER stands in the place of a vendor's.
//
//go:embed all:runner
var Runner embed.FS

// RunnerClasses returns the FAI classes of that image, from those that the matrix gives to its release and arch. Nothing of what
// every published image has is in it but the system itself.
func RunnerClasses(release, arch []string) []string {
	classes := []string{"BUILD_IMAGE", "DEBIAN"}
	for _, class := range release {
		if class != "EXTRAS" {
			classes = append(classes, class)
		}
	}
	// RUNNER comes first: its scripts copy the files that those of the others look for.
	classes = append(classes, "RUNNER", "SYSTEM_BOOT", "SYSTEM_BOOT_DEFAULT", "LINUX_VARIANT_CLOUD")
	return append(append(classes, arch...), "LAST")
}

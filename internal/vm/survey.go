package vm

import "context"

// Survey is what a libvirt daemon has, looked at without changing anything.
type Survey struct {
	// Libvirt and QEMU are versions, such as "11.3.0".
	Libvirt, QEMU string
	// User is the uid as which QEMU runs, 0 where libvirt does not say.
	User int
	// Pools, Networks and Filters tell by name whether each is active; a filter that is defined is.
	Pools, Networks, Filters map[string]bool
	// Gateways are the host's addresses in the networks, "" in one where it has none.
	Gateways map[string]string
}

// LookAround surveys the daemon at a URI. It does not wait for one that does not answer.
func LookAround(ctx context.Context, uri string) (Survey, error) {
	c, err := dial(ctx, uri)
	if err != nil {
		return Survey{}, err
	}
	defer c.close()
	return c.survey(ctx)
}

// Verdict says how guests are executed on this host and, where that is not KVM, why. Only a guest that has really run
// on KVM counts; the answer is kept until the host reboots.
func Verdict(ctx context.Context) (Accel, string) { return new(Node).Accelerator(ctx) }

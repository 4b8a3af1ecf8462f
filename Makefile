# make run   installs what it needs, builds ./debcloud and takes one cell of the matrix from FAI to a published image
# make test  installs what it needs and runs every test
# make help  lists the rest

SHELL = /bin/bash -eu -o pipefail
GO = packaging/go
# The same for all, so that lint, build and tests share what is compiled.
export GOFLAGS = -trimpath
# The program is static: it is also what runs in the guests, of any age. Only the race detector needs cgo.
export CGO_ENABLED = 0
# Tests and lint see the clouds' SDKs too.
TEST_TAGS = clouds
CELL = trixie genericcloud amd64
CACHE = $(CURDIR)/.cache
CI_MODULES = $(CACHE)/ci/node_modules
OPENSTACK = $(CACHE)/openstack/chroot
AZURITE = $(CACHE)/azurite/node_modules
GCS = $(CACHE)/servers/fake-gcs-server

GO_PACKAGES = ca-certificates git golang-go
RUN_PACKAGES = $(GO_PACKAGES) \
	debootstrap dosfstools e2fsprogs eatmydata fai-server file mmdebstrap mtools xz-utils \
	libvirt-clients libvirt-daemon-driver-qemu libvirt-daemon-system ovmf qemu-system-x86 qemu-utils tini
TEST_PACKAGES = $(RUN_PACKAGES) busybox-static chromium cpio dnsmasq-base fdisk \
	gcc grub-common grub-pc-bin iptables kmod libarchive-tools libc6-dev npm python3 rsync shellcheck

.PHONY: help
help: ## list the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

.PHONY: run
run: packages debcloud ## build, check, boot, publish and index one cell (CELL="trixie genericcloud amd64")
	./debcloud run $(CELL) --dir public

.PHONY: debcloud debcloud-clouds
debcloud: ## build the program
debcloud-clouds: ## build it once more, with the clouds' SDKs: debcloud publish and prune start it for a target in a cloud
debcloud-clouds: TAGS = clouds
debcloud debcloud-clouds:
	$(GO) build -tags "$(TAGS)" -ldflags "-s -w -X main.commit=$$(git describe --always --dirty --abbrev=40 2>/dev/null)" -o $@ ./cmd/debcloud

.PHONY: packages test-packages
packages: ## install the Debian packages that `make run` needs
	@$(call install,$(RUN_PACKAGES))
test-packages: ## install those that `make test` needs
	@$(call install,$(TEST_PACKAGES))

# A machine that has a Go or npm of its own, new enough or not, keeps it.
define install
	missing=; for p in $(1); do \
		if [ $$p = golang-go ] && PATH=$$PATH:/usr/local/go/bin command -v go >/dev/null; then continue; fi; \
		if [ $$p = npm ] && command -v npm >/dev/null; then continue; fi; \
		dpkg-query -W -f '$${db:Status-Status}' $$p 2>/dev/null | grep -qx installed || missing="$$missing $$p"; \
	done; \
	if [ -n "$$missing" ]; then \
		echo "installing$$missing"; \
		if [ "$$(id -u)" != 0 ]; then echo "make: run this as root, or: apt-get install$$missing" >&2; exit 2; fi; \
		apt-get -qq update; \
		DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends $$missing >/dev/null; \
	fi
endef

.PHONY: test test-ready
test: test-packages debcloud ## every test
	$(MAKE) --no-print-directory --jobs=3 test-ready
	$(TEST_ENV) CGO_ENABLED=1 $(GO) test -race -count=1 -tags $(TEST_TAGS) -timeout 40m ./...
	@# Once more without the race detector, which leaves out here what it makes four times as dear: whole images, and each way to die at each request.
	$(TEST_ENV) $(GO) test -count=1 -tags $(TEST_TAGS) -timeout 20m ./jobs/publish/...

TEST_ENV = DEBCLOUD_TEST_CI=$(CI_MODULES) DEBCLOUD_TEST_OPENSTACK=$(OPENSTACK) DEBCLOUD_TEST_AZURITE=$(AZURITE) DEBCLOUD_TEST_GCS=$(GCS) DEBCLOUD_TEST_IMAGE=$$(cat $(CACHE)/test-image)

# What the Go tests stand on, side by side: FAI and the chroot leave half of two processors idle, and lint fills them.
test-ready: test-image lint $(CI_MODULES)/.package-lock.json $(OPENSTACK)/etc/debian_version $(AZURITE)/.package-lock.json $(GCS)

# gitlab-ci-local and the Node that it needs, to run .gitlab-ci.yml here.
$(CI_MODULES)/.package-lock.json: packaging/ci/package.json packaging/ci/package-lock.json packaging/ci/.npmrc | test-packages
	mkdir -p $(CACHE)/ci
	cp $^ $(CACHE)/ci
	cd $(CACHE)/ci && npm ci
	touch $@

# Azurite, Microsoft's emulator of the storage services.
$(AZURITE)/.package-lock.json: packaging/azurite/package.json packaging/azurite/package-lock.json packaging/azurite/.npmrc | test-packages
	mkdir -p $(CACHE)/azurite
	cp $^ $(CACHE)/azurite
	cd $(CACHE)/azurite && npm ci
	touch $@

# Doubles in Go that others wrote have a module of their own, so that debcloud's requires nothing of theirs. They are built once a version.
$(GCS): packaging/servers/go.mod packaging/servers/go.sum | test-packages
	cd packaging/servers && ../go build -o $(CACHE)/servers/ github.com/fsouza/fake-gcs-server
	touch $@

# Debian 12's Keystone and Glance, for tests that publish to them.
$(OPENSTACK)/etc/debian_version: packaging/openstack-chroot | test-packages
	packaging/openstack-chroot $(OPENSTACK)
	touch $@

.PHONY: lint
lint: test-packages ## formatting, vet, staticcheck, shellcheck
	@unformatted=$$("$$($(GO) env GOROOT)/bin/gofmt" -l $$(git ls-files '*.go')); \
	if [ -n "$$unformatted" ]; then echo "not gofmt-ed: $$unformatted" >&2; exit 1; fi
	$(GO) vet -tags $(TEST_TAGS) ./...
	$(GO) vet ./cmd/debcloud
	$(GO) tool staticcheck -tags $(TEST_TAGS) ./...
	git ls-files -z | xargs -0 grep -lzP '\A#! ?/(usr/)?bin/(env )?(ba)?sh\b' | xargs shellcheck

# The main job, on a real cell. Its image is the one that the Go tests share.
# Exit code 3 says that a second try may help, and it goes on from there: an emulated guest waits in vain for a device where lint takes all processors.
RUN_TEST_IMAGE = ./debcloud run $(CELL) --dir $(CACHE)/test/public --work $(CACHE)/test/work
.PHONY: test-image
test-image: test-packages debcloud
	rm -rf $(CACHE)/test
	$(RUN_TEST_IMAGE) || { [ $$? = 3 ] && $(RUN_TEST_IMAGE); }
	ls $(CACHE)/test/work/*.build.json > $(CACHE)/test-image

.PHONY: test-long
test-long: test-packages debcloud test-image $(OPENSTACK)/etc/debian_version ## what takes longer: every cell that can be built here
	DEBCLOUD_TEST_LONG=1 DEBCLOUD_TEST_OPENSTACK=$(OPENSTACK) DEBCLOUD_TEST_IMAGE=$$(cat $(CACHE)/test-image) $(GO) test -tags $(TEST_TAGS) -timeout 4h -v -run Long ./...

.PHONY: bench
bench: test-packages debcloud test-image ## speed and memory, side by side with what they are held against
	DEBCLOUD_TEST_IMAGE=$$(cat $(CACHE)/test-image) $(GO) test -timeout 2h -p 1 -run '^$$' -bench . ./...

# The tree that is built has the modules in vendor/: the build itself does not need the network.
DEB_PACKAGES = $(GO_PACKAGES) debhelper dpkg-dev fakeroot lintian
DEB = $(CACHE)/deb
.PHONY: deb deb-packages
deb-packages:
	@$(call install,$(DEB_PACKAGES))
deb: deb-packages ## the Debian package, in .cache/deb
	rm -rf $(DEB) && mkdir -p $(DEB)/debcloud
	git ls-files -z | xargs -0 cp --parents -t $(DEB)/debcloud
	cp -r packaging/debian $(DEB)/debcloud/debian
	cd $(DEB)/debcloud && packaging/go mod vendor
	commit=$$(git describe --always --dirty --abbrev=40); cd $(DEB)/debcloud && \
		GOMODCACHE=$$(packaging/go env GOMODCACHE) GOCACHE=$$(packaging/go env GOCACHE) DEBCLOUD_COMMIT=$$commit \
		dpkg-buildpackage -b -us -uc
	lintian --fail-on error,warning $(DEB)/*.changes

.PHONY: clean
clean: ## remove what the other targets made
	rm -rf debcloud debcloud-clouds public work $(CACHE)

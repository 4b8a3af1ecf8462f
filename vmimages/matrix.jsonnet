// The matrix of Debian cloud images: the only place where a release, a vendor, an architecture or a type is added.
// It evaluates to the ImageConfig document that "debcloud plan" reads; debcloud plan -o json shows the cells.
//
// A cell (release × vendor × arch) exists when the rules of its release, of its vendor and of the public type all let it
// pass. A rule matches when each list it has names the cell; the first rule that matches decides by its op (Enable is the
// default). A list without rules lets everything pass; a list of which no rule matches excludes the cell.

// Words for rules: what matches, and what then happens.
local only(arches) = { matchArches: arches };
local except = { op: 'Disable' };
local upload = { op: 'EnableUpload' };

// A release, and the variant of it that takes its kernel from backports. The variant has its own row in the matrix.
local release(name, id, arches=null) = {
  name: name,
  basename: name,
  id: id,
  baseid: id,
  faiClasses: [std.asciiUpper(name), 'LINUX_VERSION_BASE', 'EXTRAS'],
  [if arches != null then 'matches']: [only(arches)],
};
local backports(name, id, arches) = release(name + '-backports', id + '-backports', arches) {
  baseid: id,
  faiClasses: [std.asciiUpper(name), 'LINUX_VERSION_BACKPORTS', 'EXTRAS'],
};

// FAI classes that several vendors share.
local boots = ['SYSTEM_BOOT', 'SYSTEM_BOOT_DEFAULT'];
local cloud = boots + ['CLOUD'];

// Azure's offers hold one major release each, so its uploads go in a group per release, one after the other.
local azureOffer(releases, group) = { matchVendors: ['azure'], matchReleases: releases, uploadGroup: group } + upload;
local azureOffers(suffix) = [
  azureOffer([it.name, it.name + '-backports'], 'debian-' + it.id + suffix)
  for it in [{ name: 'bullseye', id: 11 }, { name: 'bookworm', id: 12 }, { name: 'trixie', id: 13 }, { name: 'forky', id: 14 }]
];

// AWS has partitions that share nothing but the API.
local aws(name, partition, variables) = {
  name: name,
  provider: 'aws',
  partition: partition,
  account: '$' + variables + '_ACCOUNT',
  regions: ['$' + variables + '_REGIONS'],
  vendors: ['ec2'],
  settings: { role: '$' + variables + '_ROLE?', parameterPrefix: '$' + variables + '_PARAMETER_PREFIX?' },
};
// A partition of Alibaba Cloud: accounts in mainland China and elsewhere are not the same, and nothing is copied between them.
local alibaba(name, partition, variables) = {
  name: name,
  provider: 'alibaba',
  partition: partition,
  account: '$' + variables + '_ACCOUNT',
  regions: ['$' + variables + '_REGIONS'],
  vendors: ['genericcloud'],
  settings: {
    bucket: '$' + variables + '_BUCKET',
    role: '$' + variables + '_ROLE?',
    identityProvider: '$' + variables + '_IDENTITY_PROVIDER?',
    profile: '$' + variables + '_PROFILE?',
  },
};

{
  apiVersion: 'cloud.debian.org/v1alpha1',
  kind: 'ImageConfig',

  // azureName: the name in Azure's compute gallery. ociArch: the name in the OCI image specification.
  archs: [
    { name: 'amd64', azureName: 'X64', ociArch: 'amd64', faiClasses: ['AMD64'] },
    { name: 'arm64', azureName: 'Arm64', ociArch: 'arm64', faiClasses: ['ARM64'] },
    { name: 'ppc64el', ociArch: 'ppc64le', faiClasses: ['PPC64EL'] },
    { name: 'riscv64', ociArch: 'riscv64', faiClasses: ['RISCV64'] },
    { name: 's390x', ociArch: 's390x', faiClasses: ['S390X'] },
  ],

  releases: [
    release('bullseye', '11', ['amd64', 'arm64']),
    backports('bullseye', '11', ['amd64', 'arm64']),
    release('bookworm', '12', ['amd64', 'arm64', 'ppc64el']),
    backports('bookworm', '12', ['amd64', 'arm64', 'ppc64el']),
    release('trixie', '13', ['amd64', 'arm64', 'ppc64el', 'riscv64']),
    backports('trixie', '13', ['amd64', 'arm64', 'ppc64el']),
    release('forky', '14'),
    release('sid', 'sid'),
  ],

  // size: of the disk, in GiB.
  vendors: [
    {
      name: 'azure',
      faiClasses: cloud + ['AZURE', 'LINUX_VARIANT_CLOUD', 'TIME_CHRONY', 'IPV6_DHCP'],
      size: 30,
      matches: [
        only(['amd64']),
        only(['arm64']) + { matchReleases: ['bullseye'] } + except,
        only(['arm64']),
      ],
    },
    {
      name: 'ec2',
      faiClasses: cloud + ['EC2', 'LINUX_VARIANT_CLOUD', 'TIME_SYSTEMD', 'IPV6_DHCP'],
      size: 8,
      matches: [only(['amd64', 'arm64'])],
    },
    {
      name: 'gce',
      faiClasses: cloud + ['GCE', 'LINUX_VARIANT_CLOUD', 'TIME_SYSTEMD'],
      size: 10,
      matches: [{ matchReleases: ['bullseye'] } + except, only(['amd64'])],
    },
    {
      name: 'generic',
      faiClasses: cloud + ['GENERIC', 'LINUX_VARIANT_BASE', 'TIME_SYSTEMD'],
      size: 3,
    },
    {
      name: 'genericcloud',
      faiClasses: cloud + ['GENERIC', 'LINUX_VARIANT_CLOUD', 'TIME_SYSTEMD'],
      size: 3,
      matches: [only(['amd64', 'arm64'])],
    },
    {
      name: 'nocloud',
      faiClasses: boots + ['NOCLOUD', 'LINUX_VARIANT_BASE', 'TIME_SYSTEMD'],
      size: 3,
    },
    {
      name: 'raspi',
      faiClasses: ['SYSTEM_BOOT', 'SYSTEM_BOOT_RASPI', 'NOCLOUD', 'LINUX_VARIANT_BASE', 'TIME_SYSTEMD'],
      size: 3,
      matches: [only(['arm64']) + { matchReleases: ['trixie', 'trixie-backports', 'forky', 'forky-backports', 'sid'] }],
    },
  ],

  // How a build and its version are named; {date} is YYYYMMDD, {version} the pipeline's number.
  types: [
    {
      name: 'dev',
      faiClasses: ['TYPE_DEV'],
      outputName: 'debian-{release}-{vendor}-{arch}-{build_type}-{build_id}-{version}',
      outputVersion: '{version}',
      outputVersionAzure: '0.0.{version!s}',
    },
    {
      name: 'official',
      outputName: 'debian-{release}-{vendor}-{arch}-{build_type}-{version}',
      outputVersion: '{date}-{version}',
      outputVersionAzure: '0.{date!s}.{version!s}',
    },
  ],

  // What each kind of pipeline builds, and where it uploads to.
  publicTypes: [
    { name: 'dev' },
    {
      name: 'daily',
      matches: azureOffers('-daily') + [
        azureOffer(['sid'], 'debian-sid-daily'),
        { matchVendors: ['ec2'] } + upload,
        { matchVendors: ['generic', 'genericcloud', 'nocloud', 'raspi'] },
      ],
    },
    {
      name: 'release',
      matches: [{ matchReleases: ['sid'] } + except] + azureOffers('') + [
        { matchVendors: ['ec2'] } + upload,
        { matchVendors: ['generic', 'genericcloud'] },
      ],
    },
  ],

  // Where images are published to: what --to can name. A value $NAME is the environment's variable NAME, and $NAME? may be
  // unset. Nothing here is a secret. Each partition of a provider is a target of its own, with its own account.
  targets: [
    aws('aws', 'aws', 'DEBCLOUD_AWS'),
    aws('aws-china', 'aws-cn', 'DEBCLOUD_AWS_CHINA'),
    aws('aws-gov', 'aws-us-gov', 'DEBCLOUD_AWS_GOV'),
    {
      name: 'azure',
      provider: 'azure',
      account: '$DEBCLOUD_AZURE_SUBSCRIPTION',
      regions: ['$DEBCLOUD_AZURE_REGIONS'],
      vendors: ['azure'],
      settings: { 'resource-group': '$DEBCLOUD_AZURE_RESOURCE_GROUP', gallery: '$DEBCLOUD_AZURE_GALLERY' },
    },
    {
      name: 'google',
      provider: 'google',
      account: '$DEBCLOUD_GOOGLE_PROJECT',
      regions: ['$DEBCLOUD_GOOGLE_REGIONS?'],
      vendors: ['gce'],
      settings: {
        bucket: '$DEBCLOUD_GOOGLE_BUCKET',
        identityProvider: '$DEBCLOUD_GOOGLE_IDENTITY_PROVIDER?',
        serviceAccount: '$DEBCLOUD_GOOGLE_SERVICE_ACCOUNT?',
        licenses: '$DEBCLOUD_GOOGLE_LICENSES?',
      },
    },
    alibaba('alibaba', 'international', 'DEBCLOUD_ALIBABA'),
    alibaba('alibaba-china', 'china', 'DEBCLOUD_ALIBABA_CHINA'),
  ],

  // How long images are kept at every target. Beyond the newest "keep" of a release, vendor, arch and type an image is
  // deprecated, hidden some days after that, and deleted some days after that. The newest of a family always stays, and so
  // does what has no known date or is still referred to. orphanDays: the age of snapshots and the like that nothing needs.
  retention: {
    dev: { keep: 2, hideAfterDays: 1, deleteAfterDays: 2 },
    daily: { keep: 14, hideAfterDays: 14, deleteAfterDays: 14 },
    release: { keep: 3, hideAfterDays: 180, deleteAfterDays: 365 },
    orphanDays: 7,
  },
}

// What a team most likely wants to change. Overlay it: a file of this name in the folder of --templates that says
//   (import 'debcloud/settings.libsonnet') + { tags+: { vm: ['my-runner'] } }
{
  // Runner tags. vm: a runner whose executor boots a VM a job; light: any runner of the team.
  tags: { vm: ['debcloud'], light: ['debcloud'] },

  // The VM image that the executor boots, and the container image that other executors would use.
  image: 'runner',

  // Kinds of jobs that are not for everyone yet.
  // clouds: publish to the vendor's cloud beside the directory; turn it on with the targets' variables and logins set
  // (vmimages/matrix.jsonnet, jobs/publish/README.md). cloudTest: boot the image there before it becomes public; debcloud
  // boot has no --on yet. notify: the feed, and the listeners where DEBCLOUD_LISTENERS names them.
  steps: { clouds: false, cloudTest: false, notify: true, prune: true },

  // Minutes after which GitLab ends a job of a kind. The script is ended 5 minutes earlier, because at a job's time-out
  // neither after_script nor the upload of artifacts would run.
  minutes: {
    build: 60, check: 20, boot: 40, publish: 60, 'cloud test': 60, promote: 60, index: 20, notify: 10, prune: 60,
    report: 15, 'report of parts': 60, gather: 10, unpack: 10, 'nothing to do': 10,
  },

  // How long GitLab keeps artifacts: images, and what is said about them.
  expire: { images: '3 days', documents: '30 days' },

  // How often a job is tried again when its runner failed, never when its script did.
  retries: 2,

  // Where each vendor's images are uploaded to. --to takes the target. serial: at most one job a group at a time.
  // credentials: id tokens for the cloud's OIDC login; the audiences are variables of the project.
  providers: {
    directory: { target: 'directory:$DEBCLOUD_TREE' },
    aws: { target: 'aws', credentials: { AWS_ID_TOKEN: { aud: '$DEBCLOUD_AWS_AUDIENCE' } } },
    azure: { target: 'azure', serial: true, credentials: { AZURE_ID_TOKEN: { aud: '$DEBCLOUD_AZURE_AUDIENCE' } } },
    google: { target: 'google', credentials: { GOOGLE_ID_TOKEN: { aud: '$DEBCLOUD_GOOGLE_AUDIENCE' } } },
    alibaba: { target: 'alibaba', credentials: { ALIBABA_ID_TOKEN: { aud: '$DEBCLOUD_ALIBABA_AUDIENCE' } } },
  },
  // The provider of each vendor whose images are uploaded to a cloud, where steps.clouds says so; every image is published to
  // the directory.
  clouds: { ec2: 'aws', azure: 'azure', gce: 'google' },

  // Where the public tree is seen; the host is a variable of the project.
  publicURL: 'https://$DEBCLOUD_PUBLIC_HOST/',

  // The job of .gitlab-ci.yml that builds ./debcloud for all jobs. Where they run in another system than that one, or its file is
  // not this project's: null, and prepare makes it in each job.
  program: 'program',
  prepare: [],
  // A job that talks to a cloud needs that cloud's SDK too.
  prepareCloud: ['make debcloud-clouds'],

  // The order in which GitLab's page shows the jobs. No job waits for a stage: each says what it needs.
  stages: ['images', 'build', 'check', 'boot', 'publish', 'cloud test', 'promote', 'after'],
}

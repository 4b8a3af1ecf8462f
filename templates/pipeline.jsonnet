// The jobs of a pipeline: function(context) → the child pipeline.
//
// context: type     dev, daily or release
//          version  of all images, "" where the pipeline's own number tells it; of the daily that a release promotes
//          config   ImageConfig document that the jobs read, "" where it is the built-in matrix
//          releases { name, cells } each; cells as in the Plan document, with name, "trixie genericcloud amd64", and variables, DEBCLOUD_RELEASE and so on
//          parts    in the place of releases where the pipeline is so large that it was split: { name, file } each
//          why      there are no releases
//          last     whether what comes once a pipeline (report, index, notify, prune) is in this file
//
// A job kind lives in a file of its own. A team changes one by putting a file of the same name into the folder of --templates,
// where 'debcloud/NAME' imports the original.
local settings = import 'settings.libsonnet';

function(context)
  local lib = (import 'job.libsonnet')(settings, context);
  local build = (import 'build.libsonnet')(lib);
  local check = (import 'check.libsonnet')(lib);
  local boot = (import 'boot.libsonnet')(lib);
  local publish = (import 'publish.libsonnet')(lib);
  local cloudTest = (import 'cloud-test.libsonnet')(lib);
  local promote = (import 'promote.libsonnet')(lib);
  local index = (import 'index.libsonnet')(lib);
  local notify = (import 'notify.libsonnet')(lib);
  local prune = (import 'prune.libsonnet')(lib);
  local report = (import 'report.libsonnet')(lib);
  local gather = (import 'gather.libsonnet')(lib);
  local part = (import 'part.libsonnet')(lib);
  local nothing = (import 'nothing.libsonnet')(lib);

  local cells = std.flatMap(function(r) r.cells, context.releases);
  local empty = cells == [] && context.parts == [];
  local builds = context.type != 'release' && cells != [];
  local publishes = context.type != 'dev';
  local once = publishes && context.last;
  local job(name, kind, more) = { name: name, job: { extends: '.' + kind } + more };

  // Where a cell is published: in the directory, and in the cloud of its vendor.
  local cloudOf(c) = if lib.uploads(c) then lib.cloud(c.vendor) else null;
  local cloudsOf(cells) = if settings.steps.clouds then std.set([cloudOf(c) for c in cells if lib.uploads(c)]) else [];
  local clouds = cloudsOf(cells);
  local providers = ['directory'] + clouds;
  local promoting = if cells == [] then [] else providers;

  local publication(c, provider) = job('publish ' + c.name + ' ' + provider, 'publish ' + provider, publish.of(c, provider));
  local toCloud(c, provider) =
    [publication(c, provider)]
    + if lib.tests(c) then [job('cloud test ' + c.name, 'cloud test ' + provider, cloudTest.of(c, provider))] else [];
  local ofCell(c) =
    [
      job('build ' + c.name, 'build', build.of(c)),
      job('check ' + c.name, 'check', check.of(c)),
      job('boot ' + c.name, 'boot', boot.of(c)),
    ]
    + (if publishes then [publication(c, 'directory')] else [])
    + (if publishes && lib.uploads(c) then toCloud(c, cloudOf(c)) else []);

  // A release becomes public at each provider once all that is published of it passed.
  local ofRelease(release) =
    local providers = ['directory'] + cloudsOf(release.cells);
    local tests = if settings.steps.cloudTest then [lib.after('cloud test ' + c.name) for c in release.cells if lib.tests(c)] else [];
    local publications(p) = ['publish ' + c.name + ' ' + p for c in release.cells if p == 'directory' || cloudOf(c) == p];
    // It takes the documents of its own provider's publications and waits for all.
    local needs(provider) =
      publications(provider)
      + std.flatMap(function(p) std.map(lib.after, publications(p)), [p for p in providers if p != provider])
      + tests;
    [
      job('promote ' + release.name + ' ' + p, 'promote ' + p, promote.of(release, p, if builds then needs(p) else []))
      for p in providers
    ];
  local promotions = if publishes then std.flatMap(ofRelease, context.releases) else [];

  local ofPart(p) = [job('unpack ' + p.name, 'unpack', part.of(p)), { name: p.name, job: part.start(p) }];

  // What comes once, after all of it.
  local pruned = if context.type == 'daily' && settings.steps.prune then std.set(['directory'] + (if settings.steps.clouds then std.objectValues(settings.clouds) else [])) else [];
  local last = if once then
    [job('index', 'index', index.of([if std.endsWith(p.name, ' directory') then lib.after(p.name) else p.name for p in promotions] + [p.name for p in context.parts]))]
    + (if settings.steps.notify then [job('notify', 'notify', notify.of([lib.after('index')]))] else [])
    + [job('prune ' + p, 'prune ' + p, prune.of([lib.after('index')])) for p in pruned]
  else [];

  // One note tells of all images, those of all parts too.
  local reporting = context.type == 'dev' && context.last && !empty;
  local reports = if reporting then
    [job('report', 'report', if context.parts == [] then report.of(cells) else report.ofParts(context.parts))]
  else [];

  // GitLab allows 50 needs a job. One with more needs jobs that gather 50 each. What it needs of the parent pipeline, the program
  // that it runs above all, it needs itself.
  local ofParent(need) = std.isObject(need) && std.objectHas(need, 'pipeline');
  local within(stage) = function(it)
    local parents = [n for n in it.job.needs if ofParent(n)];
    local needs = [n for n in it.job.needs if !ofParent(n)];
    local groups = [needs[i:i + 50] for i in std.range(0, std.length(needs) - 1) if i % 50 == 0];
    local names = ['gather ' + (i + 1) + ' of ' + it.name for i in std.range(0, std.length(groups) - 1)];
    if std.length(needs) + std.length(lib.program + parents) <= 50 then [it { job+: { needs: lib.program + parents + needs } }]
    else
      [job(names[i], 'gather', gather.of(groups[i], stage)) for i in std.range(0, std.length(groups) - 1)]
      + within(stage)(it { job+: { needs: parents + names } });

  local promoted = std.flatMap(within('promote'), promotions);
  local ended = if empty then [] else std.flatMap(within('after'), last + reports);
  local jobs = (if empty then [job('nothing to do', 'nothing to do', nothing.of(context.why))] else [])
               + (if builds then std.flatMap(ofCell, cells) else [])
               + promoted
               + std.flatMap(ofPart, context.parts)
               + ended;

  // What the jobs of a kind share, as hidden jobs, of the kinds that occur.
  local gathers = std.length(promoted) > std.length(promotions) || std.length(ended) > std.length(last + reports);
  local hidden =
    (if builds then { '.build': build.base, '.check': check.base, '.boot': boot.base } else {})
    + (if builds && publishes then { ['.publish ' + p]: publish.base(p) for p in providers } + { ['.cloud test ' + p]: cloudTest.base(p) for p in clouds if settings.steps.cloudTest } else {})
    + (if publishes && !empty then { ['.promote ' + p]: promote.base(p) for p in promoting } else {})
    + (if once && !empty then { '.index': index.base, [if settings.steps.notify then '.notify']: notify.base } + { ['.prune ' + p]: prune.base(p) for p in pruned } else {})
    + (if reporting then { '.report': report.base } else {})
    + (if gathers then { '.gather': gather.base } else {})
    + (if context.parts != [] then { '.unpack': part.base } else {})
    + (if empty then { '.nothing to do': nothing.base } else {});

  // A child is judged on its own when a newer commit comes, and one of which no job has begun would be ended.
  local lasting = if publishes then { workflow: { auto_cancel: { on_new_commit: 'none' } } } else {};

  { stages: settings.stages } + lasting + hidden + { [it.name]: it.job for it in jobs }

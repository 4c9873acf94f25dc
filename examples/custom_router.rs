//! Routers of your own. One forks: it compiles two groups of instances when data changes, and says for each call which
//! one. One filters: what it leaves is kept by the one value that it depends on. The control plane is in memory.

#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::sync::Arc;
use std::time::Duration;

use polarismesh::config::PluginOptions;
use polarismesh::testing::{Server, instance};
use polarismesh::{
    Chooser, Dependence, Error, ErrorKind, GetOneInstance, Instance, LabelKind, LabelSet, Result, RouteFilter,
    RouteRequest, Routed, ServiceRouter, Subset, Surroundings,
};

/// Gives paying customers the instances with a label, and everybody else the others.
#[derive(Debug)]
struct Paying {
    label: String,
}

impl ServiceRouter for Paying {
    fn compile(&self, subset: &Subset, _: &Surroundings) -> Result<Routed> {
        let group = |paid: bool| {
            let group = subset.filter(|instance| instance.metadata().get(&self.label).is_some() == paid);
            group.ok_or_else(|| Error::plugin(ErrorKind::RouteMismatch, "nobody serves such customers"))
        };
        Ok(Routed::fork(ByPlan, [group(false), group(true)]))
    }
}

#[derive(Debug)]
struct ByPlan;

impl Chooser for ByPlan {
    fn choose(&self, request: &RouteRequest<'_>) -> Result<usize> {
        Ok(usize::from(request.label(LabelKind::Header, "plan").as_deref() == Some("gold")))
    }
}

/// Leaves the instances that speak the language of the call. There may be any number of languages.
#[derive(Debug)]
struct Language;

impl ServiceRouter for Language {
    fn compile(&self, _: &Subset, _: &Surroundings) -> Result<Routed> {
        Ok(Routed::filter(Language))
    }
}

impl RouteFilter for Language {
    fn depends_on(&self) -> Vec<Dependence> {
        vec![Dependence::Label(LabelKind::Header, "accept-language".into())]
    }

    fn keep(&self, instance: &Instance, values: &[Option<&str>]) -> bool {
        let wanted = values.first().copied().flatten();
        wanted.is_none_or(|wanted| instance.metadata().get("language") == Some(wanted))
    }
}

fn paying(options: &PluginOptions) -> Result<Arc<dyn ServiceRouter>> {
    let label = options.get("label")?.unwrap_or_else(|| "gold".to_owned());
    Ok(Arc::new(Paying { label }))
}

#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() -> Result<()> {
    let server = Server::in_memory();
    let speaking = |port, language: &str| instance("10.0.0.1", port).metadata("language", language);
    let gold = [(3, "de"), (4, "fr")].map(|(port, language)| speaking(port, language).metadata("fast", "yes"));
    server.service(("default", "help")).instances([speaking(1, "de"), speaking(2, "fr")].into_iter().chain(gold));
    let context = server
        .builder()
        .service_router("paying", paying)
        .service_router("language", |_| Ok(Arc::new(Language)))
        .set("consumer.serviceRouter.chain", "paying, language, ruleBasedRouter")
        .set("consumer.serviceRouter.plugin.paying.label", "fast")
        .build()?;
    for (plan, language) in [("none", "de"), ("gold", "de"), ("gold", "fr"), ("gold", "it")] {
        let labels = LabelSet::new().header("plan", plan).header("accept-language", language);
        let request = GetOneInstance::new("default", "help").labels(labels);
        println!("plan {plan}, language {language}:\n{}", context.router().explain(request).await?);
    }
    context.shutdown(Duration::from_secs(5)).await.ok();
    Ok(())
}

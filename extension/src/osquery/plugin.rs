//! The tables as osquery's table plugins.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::core::Core;
use super::generated::{
    ExtensionPluginRequest, ExtensionPluginResponse, ExtensionRegistry, ExtensionResponse, ExtensionStatus,
    ExtensionSyncHandler,
};
use super::source::{PATIENCE, Source};
use super::{Stop, reply, success};
use crate::record::Store;
use crate::tables::constraint::Context;
use crate::tables::{DEFAULT_ROW_CAP, Reader, Request, RunningQuery, Table, Viewer, all, find, schema};
use crate::value::Value;

/// Time for an answer: while one waits for it, the whole core does.
const ANSWER: Duration = Duration::from_secs(5);

/// What is said when there was no turn.
pub(super) const BUSY: &str = "agentquery is busy with other queries; ask again in a moment";

/// The key of a request by which a front passes on which query it is of, as JSON of [`RunningQuery`].
const RUNNING: &str = "running";

/// Time for the recorder to answer what osquery asked: longer than the recorder itself takes before it gives up.
const FORWARD: Duration = Duration::from_secs(8);

/// What is registered.
pub(super) fn registry() -> ExtensionRegistry {
    let tables = all().into_iter().map(|table| (table.info().name.to_owned(), schema::routes(table))).collect();
    BTreeMap::from([("table".to_owned(), tables)])
}

/// Answers osquery's calls.
pub(super) struct Plugin {
    pub(super) uuid: i64,
    pub(super) source: Source,
    pub(super) core: Core,
    pub(super) viewer: Viewer,
    pub(super) stop: Stop,
}

/// Answers a call of a plugin: here, or by asking the recorder the same. Where it came from the core, that is asked which
/// of its queries it is.
pub(super) fn answer(
    source: &Source,
    viewer: Viewer,
    core: Option<&Core>,
    registry: &str,
    item: &str,
    request: &ExtensionPluginRequest,
) -> Result<ExtensionPluginResponse, String> {
    let table = (registry == "table").then(|| find(item)).flatten();
    let table = table.ok_or_else(|| format!("agentquery has no {registry} plugin {item}"))?;
    match request.get("action").map(String::as_str) {
        Some("columns") => Ok(schema::routes(table)),
        Some("generate") => {
            let mut request = request.clone();
            if let Some(core) = core.filter(|_| table.info().event_based)
                && let Some(running) = core.running().map_err(|error| error.to_string())?
            {
                request.insert(RUNNING.to_owned(), serde_json::to_string(&running).map_err(|error| error.to_string())?);
            }
            source.ask(
                PATIENCE,
                |store| generate(store, source, viewer, table, &request),
                |client| client.clone().with_timeout(FORWARD).call_plugin(registry, item, request.clone()),
            )
        }
        action => Err(format!("agentquery does not know the action {}", action.unwrap_or("(none)"))),
    }
}

fn generate(
    store: &Arc<Store>,
    source: &Source,
    viewer: Viewer,
    table: &'static dyn Table,
    request: &ExtensionPluginRequest,
) -> Result<ExtensionPluginResponse, String> {
    let until = Instant::now() + ANSWER;
    let turn = source.turns().wait(viewer, until);
    let _turn = turn.ok_or(BUSY)?;
    let context = request.get("context").map_or_else(Context::default, |context| Context::parse(context));
    let (mut constraints, mut columns) = (context.constraints, context.columns);
    let running = request.get(RUNNING).and_then(|running| serde_json::from_str(running).ok());
    let running: Option<RunningQuery> = running.or_else(|| source.neighbours().query(&constraints));
    if let (Some(columns), Some(first)) = (&mut columns, table.columns().first()) {
        // A count uses no column, yet a row has to hold something to be one.
        if columns.is_empty() {
            columns.push(first.name.to_owned());
        }
    }
    let (cap, deadline) = (Some(DEFAULT_ROW_CAP), Some(until));
    let reader = Reader::of(viewer, table, &constraints, running.as_ref());
    if let Some(reader) = &reader {
        let none_before = source.got().begin(reader);
        reader.narrow(store, &mut constraints, cap, none_before).map_err(|error| error.to_string())?;
    }
    let request = Request { viewer, constraints, columns, cap, deadline };
    let found = source.reads().scan(store, table, &request).map_err(|error| error.to_string())?;
    if let Some(reader) = reader.filter(|_| found.rows.is_empty()) {
        source.got().none(&reader);
    }
    let names: Vec<_> = found.columns.iter().map(|column| column.name).collect();
    Ok(found.rows.into_iter().map(|row| wire_row(names.iter().copied().zip(row))).collect())
}

/// A row as it travels: all values are text, and NULL is left out.
pub(super) fn wire_row<'a>(cells: impl Iterator<Item = (&'a str, Value)>) -> BTreeMap<String, String> {
    let text = |value| match value {
        Value::Null => None,
        Value::Integer(integer) => Some(integer.to_string()),
        Value::Double(double) => Some(format!("{double:?}")),
        Value::Text(text) => Some(text.to_string()),
    };
    cells.filter_map(|(name, value)| Some((name.to_owned(), text(value)?))).collect()
}

impl ExtensionSyncHandler for Plugin {
    fn handle_ping(&self) -> thrift::Result<ExtensionStatus> {
        Ok(success(self.uuid))
    }

    fn handle_call(
        &self,
        registry: String,
        item: String,
        request: ExtensionPluginRequest,
    ) -> thrift::Result<ExtensionResponse> {
        Ok(reply(answer(&self.source, self.viewer, Some(&self.core), &registry, &item, &request)))
    }

    fn handle_shutdown(&self) -> thrift::Result<()> {
        self.stop.request();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    fn call(source: &Source, item: &str, pairs: &[(&str, &str)]) -> Result<ExtensionPluginResponse, String> {
        let request = pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
        answer(source, Viewer::All, None, "table", item, &request)
    }

    fn generate(item: &str, context: &str) -> Result<ExtensionPluginResponse, String> {
        call(&Source::of(fixture::store(10)), item, &[("action", "generate"), ("context", context)])
    }

    #[test]
    fn only_used_columns_and_no_nulls() {
        let rows = generate("agent_file_ops", r#"{"constraints":[],"colsUsed":["mode","pid"]}"#).unwrap();
        assert_eq!(rows[0], BTreeMap::from([("mode".into(), "0644".into()), ("pid".into(), "101".into())]));
        assert_eq!(rows[1], BTreeMap::from([("pid".into(), "100".into())]));
        let counted = generate("agent_file_ops", r#"{"constraints":[],"colsUsed":[]}"#).unwrap();
        assert!(counted.len() == 8 && counted.iter().all(|row| row.len() == 1));
        assert_eq!(generate("agent_file_ops", "no json").unwrap().len(), 8);
    }

    #[test]
    fn what_cannot_be_answered_says_why() {
        assert!(generate("nothing", "").unwrap_err().contains("nothing"));
        assert!(call(&Source::default(), "ai_agents", &[]).unwrap_err().contains("action"));
        let broken = Source::default();
        broken.set(Err("this kernel has no BTF".into()));
        let error = call(&broken, "ai_agents", &[("action", "generate")]).unwrap_err();
        assert_eq!(error, "this kernel has no BTF");
    }

    #[test]
    fn columns_are_the_registered_ones() {
        let registered = &registry()["table"]["agent_file_ops"];
        assert_eq!(&call(&Source::default(), "agent_file_ops", &[("action", "columns")]).unwrap(), registered);
    }

    #[test]
    fn a_large_result_fails_with_a_message() {
        let source = Source::of(fixture::store(10_100));
        let ask = |context| call(&source, "agent_file_ops", &[("action", "generate"), ("context", context)]);
        assert!(ask("{}").unwrap_err().contains("10000"));
        let raised = r#"{"constraints":[{"name":"max_rows","list":[{"op":2,"expr":"20000"}],"affinity":"BIGINT"}],"colsUsed":["max_rows"]}"#;
        let rows = ask(raised).unwrap();
        assert_eq!((rows.len(), rows[0]["max_rows"].as_str()), (10_098, "20000"));
    }
}

//! A run as it stands, as a tree of tasks with the position at which it is true.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::estimate::RunEstimate;
use super::view::{RunState, RunView, TaskView};
use crate::event::{Cursor, EventId};
use crate::task::iso_option;

/// The most levels of tasks in a [`RunSnapshot`]. Tasks of deeper levels are listed on the last one, each with
/// its own parent, so that every JSON reader can read a snapshot.
pub const MAX_DEPTH: usize = 32;

/// The most levels of JSON in a task's attributes. Deeper ones are replaced by `{"truncated":true}` in a
/// snapshot.
const MAX_ATTRIBUTES_DEPTH: usize = 48;

/// A run as it stands at a position of its log: what `GET /<id>` answers to a client that accepts
/// `application/json`.
///
/// The tasks are a tree: each is among the [`tasks`](TaskView::tasks) of its parent, in the order in which they
/// began. A stream that starts [after it](Self::resume) goes on with no gap and no duplicate. A program can go
/// on folding from it, too:
///
/// ```
/// use ssetarget::workflow::{RunSnapshot, RunState};
/// # use std::time::SystemTime;
/// # use ssetarget::{Cursor, EventId, StoredEvent};
///
/// let json = r#"{
///     "id": "o-1", "workflow": "order", "run": 1, "state": "running", "started": "2026-11-24T09:00:00.000Z",
///     "cursor": 2, "taskCount": 1,
///     "tasks": [{
///         "taskId": "pack-1", "step": "pack", "kind": "do", "count": 1, "parentId": null,
///         "state": "running", "started": "2026-11-24T09:00:01.000Z"
///     }]
/// }"#;
/// let snapshot: RunSnapshot = serde_json::from_str(json)?;
/// assert_eq!(snapshot.state, RunState::Running);
/// // The stream goes on here.
/// assert_eq!(snapshot.resume(), Cursor::After(EventId::new(2).unwrap()));
/// # let event = StoredEvent {
/// #     id: EventId::new(3).unwrap(),
/// #     event_type: "completed".into(),
/// #     data: r#"{"taskId":"pack-1","step":"pack","kind":"do","count":1,
/// #         "timestamp":"2026-11-24T09:00:02.000Z","parentId":"order-1.workflow"}"#.into(),
/// #     timestamp: SystemTime::UNIX_EPOCH,
/// # };
/// let mut view = snapshot.into_view();
/// view.apply(&event)?;
/// assert!(view.tasks[0].ended.is_some());
/// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
/// ```
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct RunSnapshot {
    /// The id of the instance, or the name of a log that is not a workflow's.
    pub id: String,
    /// The workflow's name; `None` for a log that is not a workflow's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "typescript", ts(optional))]
    pub workflow: Option<String>,
    /// The number of the run, from 1: a restart begins the next.
    pub run: u32,
    /// The state of the run.
    pub state: RunState,
    /// When it began.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "iso_option")]
    #[cfg_attr(feature = "typescript", ts(as = "Option<String>", optional))]
    pub started: Option<SystemTime>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "iso_option")]
    #[cfg_attr(feature = "typescript", ts(as = "Option<String>", optional))]
    pub ended: Option<SystemTime>,
    /// The error, if it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "typescript", ts(optional))]
    pub error: Option<String>,
    /// The id of the last event in it; `None` if there is none yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "typescript", ts(as = "Option<f64>", optional))]
    pub cursor: Option<EventId>,
    /// How long the run and its tasks are expected to take, while it goes on and if an index of runs has enough to
    /// say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "typescript", ts(optional))]
    pub estimate: Option<RunEstimate>,
    /// The number of all tasks, on all levels.
    #[cfg_attr(feature = "typescript", ts(type = "number"))]
    pub task_count: usize,
    /// The tasks that are not part of another one, in the order in which they began.
    pub tasks: Vec<TaskView>,
}

impl RunSnapshot {
    /// Returns the snapshot of a view. `workflow` is the workflow's name, if the run is a workflow's.
    #[must_use]
    pub fn new(view: &RunView, id: &str, workflow: Option<&str>) -> Self {
        let tree = Tree::new(view);
        // Children come after their parent in this order, so the last one is whole first.
        let order: Vec<usize> = tree.walk().collect();
        let mut parts: Vec<Vec<TaskView>> = vec![Vec::new(); view.tasks.len()];
        let mut roots = Vec::new();
        for position in order.into_iter().rev() {
            let Some(task) = view.tasks.get(position) else {
                continue;
            };
            let mut task = shown(task).unwrap_or_else(|| task.clone());
            task.tasks = std::mem::take(&mut parts[position]);
            task.tasks.reverse();
            match tree.parents[position] {
                Some(parent) => parts[parent].push(task),
                None => roots.push(task),
            }
        }
        roots.reverse();
        Self {
            tasks: roots,
            ..Self::without_tasks(view, id, workflow)
        }
    }

    /// Returns the JSON of [`new`](Self::new), without making the tree in memory.
    #[cfg(any(feature = "http", feature = "snapshots"))]
    pub(crate) fn json(
        view: &RunView,
        id: &str,
        workflow: Option<&str>,
        estimate: Option<&RunEstimate>,
    ) -> Result<Vec<u8>, serde_json::Error> {
        let tree = Tree::new(view);
        let mut head = Self::without_tasks(view, id, workflow);
        head.estimate = estimate.cloned();
        let mut json = serde_json::to_vec(&head)?;
        // The brackets of the empty list and of the snapshot.
        json.truncate(json.len() - 2);
        let mut open = 0;
        let mut is_first = true;
        for (position, depth) in tree.walk_levels() {
            while open > depth {
                json.extend_from_slice(b"]}");
                open -= 1;
            }
            if !std::mem::take(&mut is_first) {
                json.push(b',');
            }
            let Some(task) = view.tasks.get(position) else {
                continue;
            };
            match shown(task) {
                Some(task) => serde_json::to_writer(&mut json, &task)?,
                None => serde_json::to_writer(&mut json, task)?,
            }
            if !tree.children(position).is_empty() {
                json.pop();
                json.extend_from_slice(b",\"tasks\":[");
                open += 1;
                is_first = true;
            }
        }
        for _ in 0..open {
            json.extend_from_slice(b"]}");
        }
        json.extend_from_slice(b"]}");
        Ok(json)
    }

    fn without_tasks(view: &RunView, id: &str, workflow: Option<&str>) -> Self {
        Self {
            id: id.to_owned(),
            workflow: workflow.map(str::to_owned),
            run: view.run,
            state: view.state,
            started: view.started,
            ended: view.ended,
            error: view.error.clone(),
            cursor: view.cursor,
            estimate: None,
            task_count: view.tasks.len(),
            tasks: Vec::new(),
        }
    }

    /// Returns the position at which a stream goes on: `?lastEventId=<cursor>`, or the beginning for a run that
    /// has no events yet.
    #[must_use]
    pub fn resume(&self) -> Cursor {
        self.cursor.map_or(Cursor::Beginning, Cursor::After)
    }

    /// Returns the view of the run, to apply the events that follow. In its list each task is followed by its
    /// children.
    #[must_use]
    pub fn into_view(self) -> RunView {
        let mut view = RunView::new();
        view.run = self.run;
        view.state = self.state;
        view.started = self.started;
        view.ended = self.ended;
        view.error = self.error;
        view.cursor = self.cursor;
        let mut rest = self.tasks;
        rest.reverse();
        while let Some(mut task) = rest.pop() {
            rest.extend(std::mem::take(&mut task.tasks).into_iter().rev());
            view.tasks.push(task);
        }
        view
    }
}

/// Returns a task as a snapshot shows it, if that differs: without attributes that are too deep for readers.
fn shown(task: &TaskView) -> Option<TaskView> {
    let attributes = task.attributes.as_ref()?;
    let fits = |value: &Value| is_within(value, MAX_ATTRIBUTES_DEPTH);
    if attributes.values().all(fits) {
        return None;
    }
    // Not `from_iter`, whose sort would be 4 KB of a Worker.
    let mut truncated = Map::new();
    truncated.insert("truncated".to_owned(), Value::from(true));
    Some(TaskView {
        attributes: Some(truncated),
        ..task.clone()
    })
}

fn is_within(value: &Value, depth: usize) -> bool {
    match value {
        Value::Array(values) => depth > 0 && values.iter().all(|value| is_within(value, depth - 1)),
        Value::Object(fields) => {
            depth > 0 && fields.values().all(|value| is_within(value, depth - 1))
        }
        _ => true,
    }
}

/// The tasks of a view as a tree of at most [`MAX_DEPTH`] levels.
struct Tree {
    /// The parent of each task in the tree.
    parents: Vec<Option<usize>>,
    /// The children of all tasks; those of one task are adjacent.
    children: Vec<usize>,
    /// The beginning of each task's children, and at last the end of all.
    begins: Vec<usize>,
    roots: Vec<usize>,
}

impl Tree {
    fn new(view: &RunView) -> Self {
        let mut parents = view.parents();
        limit(&mut parents);
        let mut begins = vec![0; parents.len() + 1];
        for parent in parents.iter().flatten() {
            begins[parent + 1] += 1;
        }
        for position in 1..begins.len() {
            begins[position] += begins[position - 1];
        }
        let mut free = begins.clone();
        let mut children = vec![0; parents.iter().flatten().count()];
        let mut roots = Vec::new();
        for (position, parent) in parents.iter().enumerate() {
            match parent {
                Some(parent) => {
                    children[free[*parent]] = position;
                    free[*parent] += 1;
                }
                None => roots.push(position),
            }
        }
        Self {
            parents,
            children,
            begins,
            roots,
        }
    }

    fn children(&self, position: usize) -> &[usize] {
        &self.children[self.begins[position]..self.begins[position + 1]]
    }

    /// Returns the positions of all tasks: each task before its children.
    fn walk(&self) -> impl Iterator<Item = usize> + '_ {
        self.walk_levels().map(|(position, _)| position)
    }

    /// As [`walk`](Self::walk), with the number of levels above each task.
    fn walk_levels(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        let mut rest: Vec<_> = self.roots.iter().rev().map(|root| (*root, 0)).collect();
        std::iter::from_fn(move || {
            let (position, depth) = rest.pop()?;
            let children = self.children(position).iter().rev();
            rest.extend(children.map(|child| (*child, depth + 1)));
            Some((position, depth))
        })
    }
}

/// Limits a tree to [`MAX_DEPTH`] levels: cuts circles at their first task, and moves deeper tasks up to the last
/// level. Takes linear time.
fn limit(parents: &mut [Option<usize>]) {
    /// The progress of the search at a task.
    #[derive(Clone, Copy, PartialEq)]
    enum Seen {
        No,
        OnPath,
        /// Its level, from 1.
        At(usize),
    }

    let mut seen = vec![Seen::No; parents.len()];
    let mut path = Vec::new();
    for start in 0..parents.len() {
        let mut next = Some(start);
        let mut level = 0;
        while let Some(position) = next {
            match seen[position] {
                Seen::No => {
                    seen[position] = Seen::OnPath;
                    path.push(position);
                    next = parents[position];
                }
                Seen::OnPath => {
                    // A circle: its first task becomes a root, and the way there is walked again.
                    let circle = path.iter().rev().take_while(|other| **other != position);
                    let first = circle.copied().fold(position, usize::min);
                    parents[first] = None;
                    for position in path.drain(..) {
                        seen[position] = Seen::No;
                    }
                    next = Some(start);
                }
                Seen::At(of_parent) => {
                    level = of_parent;
                    break;
                }
            }
        }
        while let Some(position) = path.pop() {
            if level == MAX_DEPTH {
                // Its parent is on the last level, so this task goes there, too.
                parents[position] = parents[position].and_then(|parent| parents[parent]);
            } else {
                level += 1;
            }
            seen[position] = Seen::At(level);
        }
    }
}

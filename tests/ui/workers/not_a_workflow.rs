// A type that is not a workflow.

pub struct Order;

cloudflare_workflows::export_workflow!(Order);

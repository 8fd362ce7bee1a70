// A type that is no workflow.

pub struct Order;

cloudflare_workflows::export_workflow!(Order);

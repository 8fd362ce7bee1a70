// The export of what is not the name of a type.

pub mod orders {}

cloudflare_workflows::export_workflow!(orders::Order);

// The export of a path that is not the name of a type in scope.

pub mod orders {}

cloudflare_workflows::export_workflow!(orders::Order);

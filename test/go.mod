// The tests of the repository. They are a module of their own because the product's go.mod lists only what the shipped
// programs link. The module path begins with handover/go, so these packages may import go/internal.
module handover/go/test

go 1.26.0

require (
	github.com/yuin/goldmark v1.8.7
	go.yaml.in/yaml/v3 v3.0.5
	golang.org/x/sys v0.49.0
	handover v0.0.0
)

require github.com/pelletier/go-toml/v2 v2.4.3 // indirect

replace handover => ../

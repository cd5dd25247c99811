package manifest

// Validated is a declaration that every rule has accepted. Validate is its only maker, and nothing else enters a tree. It must
// not be changed afterwards: many instances share one.
type Validated struct{ c *Component }

// Decl is the declaration; read only.
func (v Validated) Decl() *Component { return v.c }

// IsZero says whether v holds nothing.
func (v Validated) IsZero() bool { return v.c == nil }

package registry

// list is a doubly linked list of nodes, through their prev and next fields.
type list struct {
	front, back *Node
	len         int
}

func (l *list) pushFront(n *Node) {
	n.prev, n.next = nil, l.front
	if l.front != nil {
		l.front.prev = n
	} else {
		l.back = n
	}
	l.front = n
	l.len++
}

func (l *list) remove(n *Node) {
	if n.prev != nil {
		n.prev.next = n.next
	} else {
		l.front = n.next
	}
	if n.next != nil {
		n.next.prev = n.prev
	} else {
		l.back = n.prev
	}
	n.prev, n.next = nil, nil
	l.len--
}

func (l *list) nodes() []*Node {
	nodes := make([]*Node, 0, l.len)
	for n := l.front; n != nil; n = n.next {
		nodes = append(nodes, n)
	}
	return nodes
}

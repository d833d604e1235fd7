def test_the_tour(admin, user):
    made = admin("POST", "/tasks", {"title": "My Task"})
    assert made.status_code == 201, made.text
    assert made.headers["Location"] == f"/api/v1/tasks/{made.json['id']}"
    assert user("GET", "/tasks").json["items"] == [made.json]
    assert user("POST", "/tasks", {"title": "Mine"}).status_code == 403
    assert admin("DELETE", f"/tasks/{made.json['id']}").status_code == 204
    assert admin("GET", f"/tasks/{made.json['id']}").status_code == 404

def vision_page(results):
    return ""
